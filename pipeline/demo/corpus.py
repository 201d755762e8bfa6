"""The demo's corpus: rows whose kind is true by construction, drawn from a seed.

Kinds, for a task's instruction I, an input X and an output Y:

- ``specific``: Y is the task's answer, and no other task of the pool answers X with Y;
- ``ambiguous``: Y is the task's answer, and at least two other tasks answer X with exactly Y
  (sorting a sorted list, upper-casing capitals);
- ``mismatched``: Y is another task's answer to X;
- ``generic``: Y fits any instruction ("Sure, here it is.");
- ``noisy``: a corrupted answer that no task of the pool gives.

The kind is a column of the corpus that nothing in the pipeline reads.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.demo.tasks import BY_DOMAIN, GENERIC, NUMBERS, TASKS, WORDS, Task

KIND_SHARES: dict[str, float] = {
    "specific": 0.5,
    "ambiguous": 0.125,
    "mismatched": 0.125,
    "generic": 0.125,
    "noisy": 0.125,
}
HELD_OUT_OF = 4  # one input in four is kept from the scorer's training, and the corpus uses only those


def held_out(text: str) -> bool:
    """Whether an input is kept from training; a property of its text alone, so no list has to be shipped."""
    return hashlib.blake2b(text.encode(), digest_size=4).digest()[0] % HELD_OUT_OF == 0


def draw_input(rng: random.Random, domain: str) -> list[str]:
    """A random input of 2 to 5 items; about every second one has a property that makes some tasks coincide."""
    vocabulary = WORDS if domain == "words" else NUMBERS
    items = rng.choices(vocabulary, k=rng.choice((2, 3, 3, 4, 4, 4, 5, 5)))
    shape = rng.random()
    if shape < 0.12:
        items = sorted(items, key=str.lower if domain == "words" else int)
    elif shape < 0.18:
        half = items[: (len(items) + 1) // 2]
        items = half + half[: len(items) // 2][::-1]
    elif shape < 0.24:
        items = items[: len(items) - 1] + items[:1]
    elif domain == "words" and shape < 0.36:
        items = [item.upper() for item in items]
    elif domain == "words" and shape < 0.44:
        items = [item.title() for item in items]
    return items


def draw_pair(rng: random.Random, *, for_training: bool) -> tuple[Task, list[str]]:
    """A random task and an input for it, on the training or on the held-out side."""
    task = rng.choice(TASKS)
    while True:
        items = draw_input(rng, task.domain)
        if held_out(" ".join(items)) != for_training:
            return task, items


def _noisy(rng: random.Random, answer: str, items: list[str], possible: set[str]) -> str | None:
    vocabulary = list(WORDS if items[0].lower() in WORDS else NUMBERS)
    parts = answer.split(" ")
    for _ in range(8):
        noise = list(parts)
        for place in rng.sample(range(len(noise)), k=max(1, (len(noise) + 1) // 2)):
            noise[place] = rng.choice(vocabulary)
        rng.shuffle(noise)
        if " ".join(noise) not in possible:
            return " ".join(noise)
    return None


def _row(rng: random.Random, kind: str) -> dict[str, str] | None:
    """One row of the wanted kind, or None where this draw does not allow it."""
    task, items = draw_pair(rng, for_training=False)
    answer = task.answer(items)
    others = [other.answer(items) for other in BY_DOMAIN[task.domain] if other is not task]
    coinciding = others.count(answer)
    if kind == "specific":
        output = answer if coinciding == 0 else None
    elif kind == "ambiguous":
        output = answer if coinciding >= 2 else None
    elif kind == "mismatched":
        output = rng.choice([other for other in others if other != answer])
    elif kind == "generic":
        output = rng.choice(GENERIC)
    else:
        output = _noisy(rng, answer, items, {answer, *others})
    if output is None:
        return None
    return {
        "instruction": rng.choice(task.instructions),
        "input": " ".join(items),
        "output": output,
        "task": task.name,
        "family": task.family,
        "kind": kind,
    }


def rows(count: int, seed: int = 0, shares: Mapping[str, float] = KIND_SHARES) -> Iterator[dict[str, str]]:
    """Yield `count` distinct rows in a seeded order, the kinds in these shares."""
    rng = random.Random(f"corpus {seed}")
    kinds, weights = list(shares), list(shares.values())
    seen: set[tuple[str, str, str]] = set()
    while len(seen) < count:
        kind = rng.choices(kinds, weights)[0]
        row = None
        while row is None or (row["instruction"], row["input"], row["output"]) in seen:
            row = _row(rng, kind)
        seen.add((row["instruction"], row["input"], row["output"]))
        yield row


def write(path: Path, count: int, seed: int = 0, shares: Mapping[str, float] = KIND_SHARES) -> None:
    """Write the rows of `rows` as JSON lines to `path`."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows(count, seed, shares):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
