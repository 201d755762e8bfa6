"""The rows of inputs, read in this process."""

from pipeline import read_config
from pipeline.reading import chunks, readers


def plan(*inputs, blocks="auto"):
    return chunks.plan(
        read_config.validate({"input": list(inputs), "output": "o", "ray": {"read_blocks": blocks}}, "test")
    )


def rows_of(*inputs, blocks="auto"):
    return [row.read() for chunk in plan(*inputs, blocks=blocks) for row in readers.read_chunk(chunk)]
