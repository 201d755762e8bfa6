"""Corpora of paper.py: training rows and held-out rows, kept apart by a hash of the prompt before anything is scored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from paper_training import Row

from operators.normalise import Example, normalise
from operators.rejections import Rejection

END = "<|endoftext|>"  # that T0's outputs end with as text


@dataclass(frozen=True)
class Corpus:
    """A corpus: the file of its training rows (JSON lines), how many they are, and the rows that are held out, of weight 1."""

    name: str
    train: Path
    rows: int
    held_out: list[Row]


def digest_of(*texts: str) -> str:
    """128 bits in hex; the limits between texts count."""
    whole = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def share_of(example: Example) -> float:
    """A number in [0, 1) that follows from instruction and input alone: a prompt with two answers lies on one side, whatever
    corpus it stands in."""
    return int(digest_of(example.instruction, example.input), 16) / 2**128


def read(path: Path) -> list[Example]:
    """The distinct rows of a file of JSON lines, in an order by their hash; what cannot be used is counted and printed."""
    examples: dict[str, Example] = {}
    unusable = 0
    for line in path.open(encoding="utf-8"):
        try:
            record = json.loads(line)
            for column, value in record.items():
                if isinstance(value, str) and value.endswith(END):
                    record[column] = value.removesuffix(END)
            example = normalise(record)
        except (Rejection, AttributeError, json.JSONDecodeError):
            unusable += 1
            continue
        examples[digest_of(example.instruction, example.input, example.output)] = example
    print(f"{path}: {len(examples):,} distinct rows, {unusable:,} that cannot be used", flush=True)
    return [examples[key] for key in sorted(examples)]


def split(
    name: str, path: Path, work: Path, *, share: float, held_out: int, rows: int | None, chars: int | None
) -> Corpus:
    """Hold a `share` of the prompts out, of which `held_out` rows are measured; up to `rows` of all others are for training.
    Rows of more than `chars` characters are left out of both. Raises ValueError where a side is empty."""
    usable = [
        example
        for example in read(path)
        if chars is None or len(example.instruction) + len(example.input) + len(example.output) <= chars
    ]
    measured = [example for example in usable if share_of(example) < share][:held_out]
    train = [example for example in usable if share_of(example) >= share][:rows]
    if not measured or not train:
        raise ValueError(f"{path}: {len(train)} rows to train on and {len(measured)} held out; both sides need some")
    lines = [
        {"instruction": example.instruction, "input": example.input, "output": example.output}
        | ({} if example.task is None else {"task": example.task})
        for example in train
    ]
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    file = work / f"{name}-{digest_of(text)[:12]}.jsonl"
    file.write_text(text, encoding="utf-8")
    pairs = [(example.instruction, example.input, example.output, 1.0) for example in measured]
    print(f"{name}: {len(train):,} rows to train on, {len(pairs):,} held out", flush=True)
    return Corpus(name, file, len(train), pairs)
