"""A draw without replacement in proportion to exp(score / temperature): the Gumbel-top-k trick (Kool et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.scoring.scores import random_of

_LARGEST = 1e308  # a key stays finite, whatever the score and the temperature


def keys_of(scores: np.ndarray, uniform: np.ndarray, temperature: float) -> np.ndarray:
    """Float64 [N]: by what rows are ranked, score / T + g with g = -log(-log u) and u in (0, 1) of each row.

    T = 0 is the plain ranking by score, infinite T is random. NaN where the score is. A higher score never has a lower key, so
    an upper bound of a score gives one of the key.
    """
    if not temperature:
        return scores
    with np.errstate(over="ignore"):
        return np.asarray(np.clip(scores / temperature, -_LARGEST, _LARGEST) - np.log(-np.log(uniform)))


@dataclass(frozen=True)
class Threshold:
    """The key of the row that ends a budget, and what keys follow from beside scores."""

    key: float
    temperature: float
    seed: int

    def reached(self, bounds: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Bool [N]: whether rows with these upper bounds of their scores can stand before the end; NaN cannot."""
        return np.asarray(keys_of(bounds, random_of(ids, self.seed), self.temperature) >= self.key)
