"""Real rows of which some are spoilt on purpose, so that it is known which are not specific.

Kinds: `real` rows stay as they are. `mismatched` rows have the instruction of another row. `generic` rows have an output that
would do for any instruction, `noisy` ones a corrupted output. `ambiguous` rows stay as they are, and the pool holds a second
instruction that asks for the same.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from operators.retrieval.instruction_table import has_input

REAL = "real"
SPOILT = ("mismatched", "generic", "noisy", "ambiguous")
GENERIC = (
    "Sure, I can help you with that. Please let me know if you need anything else.",
    "I am sorry, but I do not have enough information to answer this.",
    "Thank you for your question. I hope that this answer is of use to you.",
    "That is a good question. There are many ways to look at it.",
    "Here is what you asked for. Feel free to change it as you like.",
    "As an assistant I try to be helpful. Could you tell me more about it?",
    "It depends on the situation, and there is no single right answer.",
    "I have done what you asked. Please check whether it is right.",
)
TWIN = "You are asked for the following, which you do as well as you can: {instruction} Give the answer alone."


@dataclass(frozen=True)
class Row:
    """A row of the corpus with its kind."""

    instruction: str
    input: str
    output: str
    task: str | None
    kind: str = REAL

    def plain(self) -> dict[str, str]:
        """The row as a line of a corpus."""
        texts = {"instruction": self.instruction, "input": self.input, "output": self.output, "kind": self.kind}
        return texts if self.task is None else {**texts, "task": self.task}


def read_rows(corpus: Path, longest: int) -> list[Row]:
    """Rows of at most so many characters, in an order that depends on their content alone."""
    rows = []
    for line in corpus.open(encoding="utf-8"):
        raw = json.loads(line)
        instruction, input, output = (_text(raw, *names) for names in _NAMES)
        if output.strip() and len(instruction) + len(input) + len(output) <= longest:
            rows.append(Row(instruction, input, output, raw.get("task")))
    distinct = list(dict.fromkeys(rows))
    return sorted(distinct, key=lambda row: hashlib.sha256(repr(row).encode()).digest())


_NAMES = (("instruction", "definition"), ("input", "context"), ("output", "response"))


def _text(raw: dict[str, object], *names: str) -> str:
    return next(str(raw[name]) for name in names if name in raw)


def plant(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[str]]:
    """`count` rows, two fifths of them real and the rest spoilt in equal shares, and the pool of their instructions."""
    rng = random.Random(seed)
    chosen = list(rows[:count])
    kinds = _kinds(chosen, rng)
    planted = [_spoil(row, kind, chosen, rng) for row, kind in zip(chosen, kinds, strict=True)]
    twins = [TWIN.format(instruction=row.instruction) for row in planted if row.kind == "ambiguous"]
    return planted, list(dict.fromkeys([row.instruction for row in planted] + twins))


def _kinds(rows: Sequence[Row], rng: random.Random) -> list[str]:
    """A kind for each row. All rows of an instruction are ambiguous or none is, as its second wording is there for all."""
    share = (1 - 0.4) / len(SPOILT)
    instructions = sorted({row.instruction for row in rows})
    rng.shuffle(instructions)
    ambiguous: set[str] = set()
    uses = {text: sum(row.instruction == text for row in rows) for text in instructions}
    for text in instructions:
        if sum(uses[known] for known in ambiguous) + uses[text] <= share * len(rows):
            ambiguous.add(text)
    others = [name for name in SPOILT if name != "ambiguous" for _ in range(round(share * len(rows)))]
    places = [place for place, row in enumerate(rows) if row.instruction not in ambiguous]
    rng.shuffle(places)
    kinds = ["ambiguous" if row.instruction in ambiguous else REAL for row in rows]
    for place, kind in zip(places, others, strict=False):
        kinds[place] = kind
    return kinds


def _spoil(row: Row, kind: str, rows: Sequence[Row], rng: random.Random) -> Row:
    if kind == "mismatched":
        others = [
            other
            for other in rows
            if other.instruction != row.instruction
            and has_input(other.input) == has_input(row.input)
            and (other.task is None or other.task != row.task)
        ]
        return replace(row, instruction=rng.choice(others).instruction, task=None, kind=kind) if others else row
    if kind == "generic":
        return replace(row, output=rng.choice(GENERIC), kind=kind)
    if kind == "noisy":
        return replace(row, output=_corrupt(row.output, rng), kind=kind)
    return replace(row, kind=kind)


def _corrupt(text: str, rng: random.Random) -> str:
    """The words in another order, and every tenth letter another one."""
    words = text.split()
    rng.shuffle(words)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(rng.choice(letters) if char.isalpha() and rng.random() < 0.1 else char for char in " ".join(words))
