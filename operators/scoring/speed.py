"""How fast this machine is at what scoring costs: in matrix products, and with a scorer itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from operators.scoring.batch_budget import FAST
from operators.scoring.models import load_model
from operators.scoring.scorer import TargetScorer

_SIZE = 1024  # of a product's matrices
_FIRST, _MORE = 64, 256  # pairs: the first ones warm up


def matrix_speed(rounds: int = 5) -> float:
    """Floating-point operations a second in float32 products, of all cores: the best of several."""
    some = np.random.default_rng(0).standard_normal((_SIZE, _SIZE), dtype=np.float32)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        some @ some
        seconds.append(time.perf_counter() - began)
    return 2.0 * _SIZE**3 / min(seconds)


def scorer_speed(
    model: dict[str, Any], longest: int, pairs: list[tuple[np.ndarray, np.ndarray]], seconds: float
) -> float | None:
    """Tokens a second that go through a scorer on this machine's CPU, from about so many seconds of scoring `pairs`; None where
    there are too few. `model`: arguments of `load_model`."""
    if len(pairs) <= _FIRST:
        return None
    scorer = TargetScorer(load_model(**model, device="cpu"), FAST["cpu"], longest=longest)
    _score(scorer, pairs[:_FIRST])
    before, began = scorer.forwarded_tokens, time.perf_counter()
    for start in range(_FIRST, len(pairs), _MORE):
        _score(scorer, pairs[start : start + _MORE])
        if time.perf_counter() - began > seconds:
            break
    return (scorer.forwarded_tokens - before) / (time.perf_counter() - began)


def _score(scorer: TargetScorer, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    scorer.sums([prompt for prompt, _ in pairs], [target for _, target in pairs])
