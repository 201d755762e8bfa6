"""The scores of SPEC 3, in float64 numpy on stored float32 mean log-likelihoods (arXiv 2602.03103 for TSS and TSS++)."""

from __future__ import annotations

import math

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


def rank(loglik: float, alternatives: np.ndarray) -> int:
    """How many alternatives explain the output at least as well; 0 means that the true instruction explains it best."""
    return int((alternatives >= loglik).sum())


def finite(likelihoods: pa.Table) -> np.ndarray:
    """Bool [N]: whether every likelihood of a row is a finite number; what is not must never become a score."""
    own = np.isfinite(likelihoods["loglik_sum"].to_numpy()) & np.isfinite(likelihoods["loglik_empty_mean"].to_numpy())
    others = [
        all(math.isfinite(one["loglik_mean"]) for one in alternatives)
        for alternatives in likelihoods["alternatives"].to_pylist()
    ]
    return own & np.array(others, dtype=bool)


def add_scores(likelihoods: pa.Table, *, hardest: int, tau: float, quality_weight: float, normalize: str) -> pa.Table:
    """SCORED from LIKELIHOODS. Rows without alternatives get null tss, tss_pp and rank.

    `normalize`: "token" takes mean log-likelihoods, "sequence" sums over the target (means times target tokens).
    """
    lengths = likelihoods["n_target_tokens"].to_numpy().astype(np.float64)
    scale = lengths if normalize == "sequence" else np.ones_like(lengths)
    means = likelihoods["loglik_mean"].to_numpy().astype(np.float64)
    empty = likelihoods["loglik_empty_mean"].to_numpy().astype(np.float64)
    columns: dict[str, list] = {"tss": [], "tss_pp": [], "rank": []}
    for row, alternatives in enumerate(likelihoods["alternatives"].to_pylist()):
        if not alternatives:
            for values in columns.values():
                values.append(None)
            continue
        loglik = means[row] * scale[row]
        others = np.array([one["loglik_mean"] for one in alternatives], dtype=np.float64) * scale[row]
        columns["tss"].append(tss(loglik, others))
        columns["tss_pp"].append(tss_pp(loglik, others, hardest=hardest, tau=tau, quality_weight=quality_weight))
        columns["rank"].append(rank(loglik, others))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        own, without_prompt = means * scale, empty * scale
        columns["ppl"] = np.exp(-own).tolist()
        columns["ifd"] = np.exp(without_prompt - own).tolist()
        columns["ifd_loss"] = [ratio if np.isfinite(ratio) else None for ratio in (own / without_prompt).tolist()]
    table = conform(likelihoods, LIKELIHOODS)
    for field in SCORE_COLUMNS:
        table = table.append_column(field, pa.array(columns[field.name], field.type))
    return conform(table, SCORED)
