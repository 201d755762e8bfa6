"""The scores, in float64 numpy on stored float32 mean log-likelihoods (arXiv 2602.03103 for TSS and TSS++)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from operators.schema import LIKELIHOODS, SCORE_COLUMNS, SCORED, conform


def log_mean_exp(values: np.ndarray) -> float:
    """log of the mean of exp, without overflow; `values` is float64 [N], N at least 1."""
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))


def tss(loglik: float, alternatives: np.ndarray) -> float:
    """l(I) - log mean_k exp l_k: a pointwise estimate of I(I; Y given X), in nats (per token where the l are means)."""
    return loglik - log_mean_exp(alternatives)


def tss_pp(loglik: float, alternatives: np.ndarray, *, hardest: int, tau: float, quality_weight: float) -> float:
    """(1 + lam) l(I) - tau log mean over the h hardest of exp(l_k / tau): the hard alternatives alone, plus the
    "small quality term" lam * l(I)."""
    hard = np.sort(alternatives)[::-1][:hardest]
    return (1 + quality_weight) * loglik - tau * log_mean_exp(hard / tau)


@dataclass(frozen=True)
class ScoreSettings:
    """The constants of the scores."""

    hardest: int
    tau: float
    quality_weight: float
    normalize: str  # "token": mean log-likelihoods; "sequence": sums over the target


def upper_bound(loglik: float, scored: np.ndarray, alternatives: int, n_target: int, settings: ScoreSettings) -> float:
    """An upper bound of tss_pp of a row with so many alternatives, of which only some have been `scored`.

    An alternative more can only raise the sum over the hardest ones, so those not scored count as probability zero. The last
    digits are given away: what follows must never be above the bound because of rounding.
    """
    scale = n_target if settings.normalize == "sequence" else 1
    hardest = min(settings.hardest, alternatives)
    others = np.sort(np.asarray(scored, dtype=np.float64))[::-1][:hardest] * scale
    if not len(others):
        return math.inf
    padded = np.concatenate([others, np.full(hardest - len(others), -np.inf)])
    bound = tss_pp(
        float(loglik) * scale, padded, hardest=hardest, tau=settings.tau, quality_weight=settings.quality_weight
    )
    return bound + 1e-9 * (1 + abs(bound))


def rank(loglik: float, alternatives: np.ndarray) -> int:
    """How many alternatives explain the output at least as well; 0 means that the true instruction explains it best."""
    return int((alternatives >= loglik).sum())


def random_of(ids: Sequence[str], seed: int) -> np.ndarray:
    """Float64 [N], uniform in [0, 1): a number that depends on a row's id (32 hex digits) and the seed, and on nothing else.

    The mixing is that of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    words = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u8").reshape(len(ids), 2).astype(np.uint64)
    key = np.uint64((seed * _GOLDEN + _GOLDEN) % 2**64)
    mixed = _mix(_mix(words[:, 0] ^ key) ^ words[:, 1])
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def add_scores(likelihoods: pa.Table, settings: ScoreSettings, seed: int) -> pa.Table:
    """SCORED from LIKELIHOODS; `seed` is for the column `random` alone.

    Rows without alternatives get null tss, tss_pp and rank; so do rows with alternatives that were not scored, and these
    get tss_pp_bound. A score that is no finite number is null: a perplexity of a whole sequence of 800 nats is too large for a
    float64, and a ratio over nothing has no value.
    """
    normalize = settings.normalize
    lengths = likelihoods["n_target_tokens"].to_numpy().astype(np.float64)
    scale = lengths if normalize == "sequence" else np.ones_like(lengths)
    means = likelihoods["loglik_mean"].to_numpy().astype(np.float64)
    empty = likelihoods["loglik_empty_mean"].to_numpy().astype(np.float64)
    columns: dict[str, list[Any]] = {"tss": [], "tss_pp": [], "rank": [], "tss_pp_bound": []}
    for row, alternatives in enumerate(likelihoods["alternatives"].to_pylist()):
        scored = [offer["loglik_mean"] for offer in alternatives if offer["loglik_mean"] is not None]
        if len(scored) < len(alternatives) or not alternatives:
            for name in ("tss", "tss_pp", "rank"):
                columns[name].append(None)
            bound = upper_bound(means[row], np.array(scored), len(alternatives), int(lengths[row]), settings)
            columns["tss_pp_bound"].append(bound if alternatives else None)
            continue
        loglik = means[row] * scale[row]
        others = np.array(scored, dtype=np.float64) * scale[row]
        columns["tss"].append(tss(loglik, others))
        columns["tss_pp"].append(
            tss_pp(loglik, others, hardest=settings.hardest, tau=settings.tau, quality_weight=settings.quality_weight)
        )
        columns["rank"].append(rank(loglik, others))
        columns["tss_pp_bound"].append(None)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        with_prompt, without_prompt = means * scale, empty * scale
        columns["ppl"] = np.exp(-with_prompt).tolist()
        columns["ifd"] = np.exp(without_prompt - with_prompt).tolist()
        columns["ifd_loss"] = (with_prompt / without_prompt).tolist()
    for name in ("tss", "tss_pp", "ppl", "ifd", "ifd_loss"):
        columns[name] = [value if value is not None and math.isfinite(value) else None for value in columns[name]]
    columns["length"] = likelihoods["n_target_tokens"].to_pylist()
    columns["random"] = random_of(likelihoods["id"].to_pylist(), seed).tolist()
    table = conform(likelihoods, LIKELIHOODS)
    for field in SCORE_COLUMNS:
        table = table.append_column(field, pa.array(columns[field.name], field.type))
    return conform(table, SCORED)
