"""Token counts of valid rows, and what to do with rows that are longer than a sequence may be (SPEC 1)."""

from __future__ import annotations

from dataclasses import dataclass

from operators.encode import Encoder
from operators.normalise import Example, Rejection
from operators.template import TemplateProblem


@dataclass(frozen=True)
class Measured:
    """Token counts of a row as it will be scored; `input_chars` characters of its input are used."""

    n_prompt_tokens: int
    n_target_tokens: int
    input_chars: int


def measure(examples: list[Example], encoder: Encoder, *, too_long: str) -> list[Measured | Rejection]:
    """Count tokens of each example; reject with `too_long`, `template_failed`, `empty_output` (no target ids) or, where the
    tokenizer itself fails, `encode_failed`.

    `too_long`: "reject", or "truncate_input", which cuts the input from its end until the sequence fits.
    """
    try:
        return _measure(examples, encoder, too_long)
    except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises on a text; halves lead to the row that it fails on
        if len(examples) == 1:
            return [
                Rejection("encode_failed", f"the tokenizer fails on this row: {type(error).__name__}: {error}"[:500])
            ]
        middle = len(examples) // 2
        halves = (examples[:middle], examples[middle:])
        return [one for half in halves for one in measure(half, encoder, too_long=too_long)]


def _measure(examples: list[Example], encoder: Encoder, too_long: str) -> list[Measured | Rejection]:
    prompts = encoder.prompts([(example.instruction, example.input) for example in examples])
    targets = encoder.targets([example.output for example in examples])
    results: list[Measured | Rejection] = []
    for example, prompt, target in zip(examples, prompts, targets, strict=True):
        if isinstance(prompt, TemplateProblem):
            results.append(Rejection("template_failed", str(prompt)))
        elif len(target) == int(encoder.append_eos):
            results.append(Rejection("empty_output", "the tokenizer gives no token for this output"))
        elif len(prompt) + len(target) <= encoder.max_length:
            results.append(Measured(len(prompt), len(target), len(example.input)))
        else:
            results.append(_too_long(example, len(prompt), len(target), encoder, too_long))
    return results


def _too_long(example: Example, n_prompt: int, n_target: int, encoder: Encoder, policy: str) -> Measured | Rejection:
    if policy == "truncate_input" and example.input:
        kept = encoder.longest_input(example.instruction, example.input, encoder.max_length - n_target)
        if kept is not None:
            return Measured(len(encoder.prompt(example.instruction, example.input[:kept])), n_target, kept)
    return Rejection(
        "too_long", f"{n_prompt} prompt tokens and {n_target} target tokens, at most {encoder.max_length} together"
    )
