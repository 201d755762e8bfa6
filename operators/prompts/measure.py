"""Token counts of valid rows, and what to do with rows that are longer than a sequence may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from operators.halving import halve
from operators.normalise import Example
from operators.prompts.special_text import EncodeProblem
from operators.prompts.template import TemplateProblem
from operators.prompts.tokenise import Encoder, Ids, Problem, TooLong, slices
from operators.rejections import Rejection


@dataclass(frozen=True)
class Measured:
    """Token counts of a row as it will be scored; `input_chars` characters of its input are used."""

    n_prompt_tokens: int
    n_target_tokens: int
    input_chars: int


def measure(examples: list[Example], encoder: Encoder, *, too_long: str) -> list[Measured | Rejection]:
    """Count tokens of each example; reject with `too_long`, `template_failed`, `empty_output` (no target ids),
    `outside_vocabulary` (an id that the model does not know) or, where the tokenizer itself fails, `encode_failed`.

    `too_long`: "reject", or "truncate_input", which cuts the input from its end until the sequence fits. A conversation whose
    turns go to a chat template as turns has no input that could be cut.
    """
    return [
        result
        for together in slices(examples, _chars)
        for results in halve(together, lambda rows: _measure(rows, encoder, too_long), _encode_failed, _excuse)
        for result in results
    ]


def _chars(example: Example) -> int:
    return len(example.instruction) + len(example.input) + len(example.output)


def _excuse(error: Exception) -> None:
    """Raise a fault of the machine, such as no room for a process: no row is to blame."""
    if isinstance(error, OSError | MemoryError):
        raise error


def _encode_failed(example: Example, error: Exception) -> list[Measured | Rejection]:
    detail = f"the tokenizer fails on this row: {type(error).__name__}: {error}"
    return [Rejection("encode_failed", detail[:500])]


def _measure(examples: Sequence[Example], encoder: Encoder, too_long: str) -> list[Measured | Rejection]:
    over = [encoder.certainly_over(example.output) for example in examples]
    possible = [example for example, certain in zip(examples, over, strict=True) if not certain]
    turns = [encoder.turns(example.instruction, example.messages, example.turn) for example in possible]
    rows = [(example.instruction, example.input, before) for example, before in zip(possible, turns, strict=True)]
    prompts = iter(encoder.prompts(rows))
    targets = iter(encoder.targets([example.output for example in possible]))
    return [
        _rejected(f"{len(example.output):,} characters of output", encoder)
        if certain
        else _measure_one(example, next(prompts), next(targets), encoder, too_long)
        for example, certain in zip(examples, over, strict=True)
    ]


def _measure_one(
    example: Example, prompt: Ids | Problem | TooLong, target: Ids, encoder: Encoder, too_long: str
) -> Measured | Rejection:
    if isinstance(prompt, TemplateProblem):
        return Rejection("template_failed", str(prompt))
    if isinstance(prompt, EncodeProblem):
        return Rejection("encode_failed", str(prompt))
    if len(target) == len(encoder.end):
        return Rejection("empty_output", "the tokenizer gives no token for this output")
    if isinstance(prompt, list) and len(prompt) + len(target) <= encoder.max_length:
        return _counted(prompt, target, len(example.input), encoder)
    if (
        too_long == "truncate_input"
        and example.input
        and encoder.turns(example.instruction, example.messages, example.turn) is None
    ):
        kept = encoder.longest_input(example.instruction, example.input, encoder.max_length - len(target))
        if kept is not None:
            return _counted(encoder.prompt(example.instruction, example.input[:kept]), target, kept, encoder)
    prompt_size = f"{len(prompt)} prompt tokens" if isinstance(prompt, list) else str(prompt)
    return _rejected(f"{prompt_size} and {len(target)} target tokens", encoder)


def _counted(prompt: Ids, target: Ids, input_chars: int, encoder: Encoder) -> Measured | Rejection:
    problem = encoder.outside(prompt) or encoder.outside(target)
    if problem is not None:
        return Rejection("outside_vocabulary", problem)
    return Measured(len(prompt), len(target), input_chars)


def _rejected(size: str, encoder: Encoder) -> Rejection:
    return Rejection("too_long", f"{size}, at most {encoder.max_length} tokens together (scorer.max_length)")
