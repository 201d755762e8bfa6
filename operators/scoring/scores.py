"""The scores of arXiv 2602.03103 (eq. 1 to 3 and its weights) and their rivals, in float64 numpy on stored log-likelihoods.

S is the sum of the log-probabilities of a row's target tokens under an instruction, s the mean per token, both in nats. Rows
stand one below the other: `own` is [N], `others` [N, K] with NaN where a row has no more alternatives, or one is not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import LIKELIHOODS, SCORE_COLUMNS, SCORED, conform


@dataclass(frozen=True)
class ScoreSettings:
    """The constants of the scores: h, tau and alpha of TSS++, lambda and the clip of the weights."""

    hardest: int
    tau: float
    alpha: float
    weight_scale: float
    weight_clip: float


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """log of the sum of exp over the last axis, without overflow; NaN counts as nothing, and nothing at all gives -inf."""
    filled = np.where(np.isnan(values), -np.inf, values)
    top = filled.max(axis=-1, initial=-np.inf)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(np.exp(filled - shift[..., None]).sum(axis=-1)))


def tss(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Eq. 1: S(I) - log((1/K) sum_k exp S_k), of sums over whole outputs, in nats: an estimate of the pointwise mutual
    information of instruction and output, given the input."""
    return np.asarray(own - (log_sum_exp(others) - np.log(np.maximum(1, _count(others)))))


def tss_nce(own: np.ndarray, others: np.ndarray, *, hardest: int, tau: float) -> np.ndarray:
    """Eq. 2: -log(1 + sum over the h hardest of exp((s_k - s(I)) / tau)), of means per token; at most 0.

    The hardest alternatives are those with the highest s_k. One more of them can only lower it."""
    ranked = -np.sort(-others, axis=-1)[..., :hardest]  # NaN sorts to the end
    with np.errstate(over="ignore"):
        ratios = log_sum_exp((ranked - own[..., None]) / tau)
    return np.asarray(-np.logaddexp(0.0, ratios))


def tss_pp(own: np.ndarray, others: np.ndarray, *, hardest: int, tau: float, alpha: float) -> np.ndarray:
    """Eq. 3: tss_nce + alpha s(I), specificity and a small quality term; at most alpha s(I)."""
    return np.asarray(tss_nce(own, others, hardest=hardest, tau=tau) + alpha * own)


def upper_bound(own: np.ndarray, others: np.ndarray, settings: ScoreSettings) -> np.ndarray:
    """An upper bound of tss_pp of rows of whose alternatives `others` are scored and more may follow.

    Each one more lowers eq. 2 or leaves it. The last digits are given away: what follows must never be above the bound because
    of rounding."""
    bound = tss_pp(own, others, hardest=settings.hardest, tau=settings.tau, alpha=settings.alpha)
    return np.asarray(bound + 1e-9 * (1 + np.abs(bound)))


def rank(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many alternatives explain the output at least as well; 0 means that the true instruction explains it best."""
    return np.asarray((others >= own[..., None]).sum(axis=-1))


def _count(others: np.ndarray) -> np.ndarray:
    return np.asarray((~np.isnan(others)).sum(axis=-1))


def log_weights(scores: np.ndarray, *, scale: float, clip: float) -> np.ndarray:
    """log of min(exp(lambda x), clip) for x the score of each row (section 3.4 of the paper); NaN where it is."""
    with np.errstate(over="ignore"):
        return np.minimum(scale * scores, np.log(clip))


def random_of(ids: Sequence[str], seed: int) -> np.ndarray:
    """Float64 [N], uniform in (0, 1): a number that depends on a row's id (32 hex digits) and the seed, and on nothing else.

    The mixing is that of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    words = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u8").reshape(len(ids), 2).astype(np.uint64)
    key = np.uint64((seed * _GOLDEN + _GOLDEN) % 2**64)
    mixed = _mix(_mix(words[:, 0] ^ key) ^ words[:, 1])
    return np.maximum((mixed >> np.uint64(11)).astype(np.float64) / 2**53, 2.0**-54)  # a logarithm is taken of it


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def alternative_means(column: pa.ChunkedArray) -> np.ndarray:
    """Float64 [N, K] of the s_k in a column `alternatives`; NaN where a row has fewer, or one is not scored."""
    counts = pc.list_value_length(column).to_numpy().astype(np.int64)
    means = np.full((len(counts), int(counts.max(initial=0))), np.nan)
    flat = pc.struct_field(pc.list_flatten(column), "loglik_mean")
    means[np.arange(means.shape[1]) < counts[:, None]] = flat.to_numpy()
    return means


def add_scores(likelihoods: pa.Table, settings: ScoreSettings, seed: int) -> pa.Table:
    """SCORED from LIKELIHOODS, but for `weight`, which depends on all rows; `seed` is for the column `random` alone.

    Rows without alternatives get null tss, tss_nce, tss_pp and rank; so do rows with alternatives that were not scored, and
    these get tss_pp_bound. A score that is no finite number is null: a ratio over nothing has no value.
    """
    table = conform(likelihoods, LIKELIHOODS)
    lengths = table["n_target_tokens"].to_numpy().astype(np.float64)
    own, empty = (table[name].to_numpy().astype(np.float64) for name in ("loglik_mean", "loglik_empty_mean"))
    others = alternative_means(table["alternatives"])
    offered = pc.list_value_length(table["alternatives"]).to_numpy()
    known, open_rows = (offered > 0) & (_count(others) == offered), _count(others) < offered
    nce = tss_nce(own, others, hardest=settings.hardest, tau=settings.tau)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        columns = {
            "tss": np.where(known, tss(own * lengths, others * lengths[:, None]), np.nan),
            "tss_nce": np.where(known, nce, np.nan),
            "tss_pp": np.where(known, nce + settings.alpha * own, np.nan),
            "tss_pp_bound": np.where(open_rows, upper_bound(own, others, settings), np.nan),
            "rank": rank(own, others),
            "ppl": np.exp(-own),
            "ifd": np.exp(empty - own),
            "ifd_loss": own / empty,
            "length": lengths,
            "random": random_of(table["id"].to_pylist(), seed),
            "weight": np.full(len(table), np.nan),
        }
    missing = {name: ~np.isfinite(values) for name, values in columns.items()} | {"rank": ~known}
    for field in SCORE_COLUMNS:
        values = pa.array(np.where(missing[field.name], 0, columns[field.name]), mask=missing[field.name])
        table = table.append_column(field, values.cast(field.type))
    return conform(table, SCORED)
