"""What any generator gives back: a text or a refusal; or the problem that no other prompt would help."""

from __future__ import annotations

from dataclasses import dataclass


class GeneratorProblem(RuntimeError):
    """A generator that cannot write, in words for the person who chose it."""


@dataclass(frozen=True)
class Answer:
    """What was written, None where the prompt was refused; whether it came to its end; and its tokens."""

    text: str | None
    finished: bool
    tokens: int = 0
