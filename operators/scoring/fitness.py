"""Whether a scorer tells instructions apart, and how much of a ranking something else would give: figures of scored rows.

Float64 numpy; rows stand one below the other, as in `scores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.scoring.scores import ScoreSettings, alternative_means, tss_pp

# Of each row of a sample, in this order.
SAMPLED = ("tss_pp", "tss_nce", "tss", "-ppl", "-ifd", "-ifd_loss", "length", "odd", "even")


def ranks_first(scored: pa.Table) -> tuple[int, dict[int, int]]:
    """Of SCORED rows with a rank: in how many the own instruction explains the output best, and how many have each number of
    alternatives."""
    ranked = scored.filter(pc.is_valid(scored["rank"]))
    best = pc.sum(pc.equal(ranked["rank"], 0)).as_py() or 0
    numbers = pc.value_counts(ranked["n_alternatives"].combine_chunks()).to_pylist()
    return int(best), {number["values"]: number["counts"] for number in numbers}


def sample_of(scored: pa.Table, settings: ScoreSettings) -> np.ndarray:
    """Float64 [N, len(SAMPLED)] of SCORED rows with a score. `-ppl` and `-ifd` stand as logarithms, s(I) and s(I) - s(0), which
    order rows alike. `odd` and `even` are tss_pp from every second alternative, with half of the hardest; rows with a single
    one have neither (NaN)."""
    own, empty = (scored[name].to_numpy().astype(np.float64) for name in ("loglik_mean", "loglik_empty_mean"))
    others = alternative_means(scored["alternatives"])
    halves = of_halves(own, others, settings, hardest=max(1, settings.hardest // 2))
    columns = {
        **{name: scored[name].to_numpy().astype(np.float64) for name in ("tss_pp", "tss_nce", "tss", "length")},
        "-ppl": own,
        "-ifd": own - empty,
        "-ifd_loss": -scored["ifd_loss"].to_numpy().astype(np.float64),
        "odd": halves[0],
        "even": halves[1],
    }
    return np.stack([columns[name] for name in SAMPLED], axis=1)


def of_halves(own: np.ndarray, others: np.ndarray, settings: ScoreSettings, *, hardest: int) -> list[np.ndarray]:
    """Float64 [N] twice: tss_pp from every second alternative, and from the others, by so many of the hardest of each half; NaN
    for rows of which fewer than two alternatives are scored, and where it is no finite number."""
    enough = np.isfinite(others).sum(axis=1) >= 2
    halves = []
    for half in (others[:, ::2], others[:, 1::2]):
        values = tss_pp(own, half, hardest=hardest, tau=settings.tau, alpha=settings.alpha)
        halves.append(np.where(enough & np.isfinite(values), values, np.nan))
    return halves


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """The rank correlation of two columns [N], equal numbers at their mean rank, over rows in which both are finite; None where
    there are fewer than two of these, or one of the columns does not vary in them."""
    both = np.isfinite(left) & np.isfinite(right)
    if both.sum() < 2:
        return None
    centred = [ranks - ranks.mean() for ranks in (_ranks(values[both]) for values in (left, right))]
    spread = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / spread) if spread else None


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[inverse])


def wilson(hits: float, trials: int) -> tuple[float, float]:
    """The 95% interval of a share that was seen `hits` times (Wilson, 1927)."""
    if not trials:
        return 0.0, 1.0
    z, share = 1.959964, hits / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def above_chance(share: float, chance: float) -> float:
    """How far a share lies between what chance gives (0) and all (1); negative below chance."""
    return (share - chance) / (1 - chance) if chance < 1 else 0.0


def full_reliability(halves: float | None) -> float | None:
    """The correlation to expect between two scores from as many alternatives each as a row has, from that of its two halves
    (Spearman-Brown)."""
    return None if halves is None or halves <= -1 else 2 * halves / (1 + halves)


def kept_by_another_draw(scores: Sequence[float] | np.ndarray, share: float, temperature: float) -> float:
    """The share of a selection of `share` of rows with these scores that another seed would select too, at a temperature > 0.

    A row is drawn if score / T + g is above a threshold t, g standard Gumbel: with probability 1 - exp(-exp(score / T - t)).
    These add up to the share at t, and two draws are independent.
    """
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    low, high = float(scaled.min()) - 50.0, float(scaled.max()) + 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _drawn(scaled, middle).mean() > share else (low, middle)
    chances = _drawn(scaled, (low + high) / 2)
    return float((chances**2).sum() / max(chances.sum(), 1e-300))


def _drawn(scaled: np.ndarray, threshold: float) -> np.ndarray:
    return np.asarray(-np.expm1(-np.exp(np.minimum(scaled - threshold, 700.0))))
