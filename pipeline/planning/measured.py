"""Token counts of the rows of a sample, and which of them a run would reject."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np

from operators.hashing import content_hash
from operators.normalise import Example
from operators.prompts.measure import Measured, measure
from operators.prompts.tokenise import Encoder
from pipeline.planning.model_corpus import PlanRow, plan_row
from pipeline.planning.sample import Sample

MEASURED_ROWS = 4000  # that are tokenised
NEAR = 0.9  # of max_length


@dataclass(frozen=True)
class MeasuredSample:
    """Rows that would be admitted, as far as it is known, with costs; how many were tokenised; the tokens of prompt and target
    of those that are admitted [N, 2], and of these without duplicates [U, 2]; why others were rejected; and how many are near
    the greatest length."""

    rows: list[PlanRow]
    tokenised: int
    tokens_N2: np.ndarray
    unique_U2: np.ndarray
    rejected: Counter[str]
    near: int

    @property
    def admitted_share(self) -> float:
        """Of rows with a layout."""
        return len(self.tokens_N2) / max(1, self.tokenised)


def measure_sample(
    sample: Sample, encoder: Encoder, too_long: str, seed: int, most: int = MEASURED_ROWS
) -> MeasuredSample:
    """Tokenise rows of a sample, at most so many; the tokens of others follow from their characters."""
    seen = [row for row in sample.rows if row.example is not None]
    chosen = sorted(random.Random(seed).sample(range(len(seen)), min(most, len(seen))))
    examples = [example for row in seen if (example := row.example) is not None]
    results = dict(zip(chosen, measure([examples[place] for place in chosen], encoder, too_long=too_long), strict=True))
    good = {place: result for place, result in results.items() if isinstance(result, Measured)}
    tokens = np.array([[result.n_prompt_tokens, result.n_target_tokens] for result in good.values()], dtype=np.float64)
    tokens = tokens.reshape(len(good), 2)
    sums = dict(zip(good, tokens.sum(axis=1).tolist(), strict=True))
    at_once, more = _line(np.array([_chars(examples[place]) for place in good], dtype=np.float64), tokens.sum(axis=1))
    hashes = {content_hash(*_texts(examples[place])): row for row, place in reversed(list(enumerate(good)))}
    rows = [
        plan_row(example, row.group, sums.get(place, max(1.0, at_once + more * _chars(example))))
        for place, (row, example) in enumerate(zip(seen, examples, strict=True))
        if place not in results or place in good
    ]
    return MeasuredSample(
        rows=rows,
        tokenised=len(results),
        tokens_N2=tokens,
        unique_U2=tokens[sorted(hashes.values())],
        rejected=Counter(result.reason for result in results.values() if not isinstance(result, Measured)),
        near=int((tokens.sum(axis=1) > NEAR * encoder.max_length).sum()),
    )


def _texts(example: Example) -> tuple[str, str, str]:
    return example.instruction, example.input, example.output


def _chars(example: Example) -> int:
    return sum(map(len, _texts(example)))


def _line(chars: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Tokens of a row without text, and of each character, by least squares."""
    if len(chars) < 2 or chars.std() == 0:
        return 0.0, float(tokens.sum() / max(1.0, chars.sum())) if len(chars) else 0.25
    more, at_once = np.polyfit(chars, tokens, 1)
    return float(at_once), float(more)
