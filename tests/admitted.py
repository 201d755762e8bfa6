"""Rows as they are admitted, for tests of what comes after."""

import pyarrow as pa

from operators.hashing import content_hash
from operators.retrieval.instruction_table import instruction_key


def rows_of(texts):
    """ADMITTED rows of (instruction, input, output); token counts are any."""
    return pa.Table.from_pylist(
        [
            {
                "id": f"{i:032x}",
                "source": "s",
                "instruction": instruction,
                "input": input,
                "output": output,
                "messages": None,
                "conversation": None,
                "turn": None,
                "extra": "{}",
                "task": None,
                "instruction_key": instruction_key(instruction),
                "pair_key": content_hash(input, output),
                "file": "f",
                "line": i + 1,
                "n_prompt_tokens": 5,
                "n_target_tokens": 5,
                "input_chars": len(input),
            }
            for i, (instruction, input, output) in enumerate(texts)
        ]
    )
