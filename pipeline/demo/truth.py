"""How well scores find the rows that are specific by construction: AUROC, and the share of specific rows within a budget.

All intervals are 95% percentile intervals of a bootstrap over rows. Every signal is judged on the same resamples, so that
differences between signals may be taken resample by resample.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset

from pipeline.demo.corpus import KIND_SHARES

OTHERS = tuple(kind for kind in KIND_SHARES if kind != "specific")
ALL = "all"  # specific against every other kind at once
FRACTIONS = (0.05, 0.10, 0.15, 0.30)
# Each signal in the direction that finds specific rows best: where the sign is -1, low values come first. In the other
# direction an AUROC is 1 less this one.
SIGNALS: dict[str, int] = {
    "tss_pp": 1,
    "tss_nce": 1,
    "tss": 1,
    "ppl": -1,
    "ifd": -1,
    "ifd_loss": -1,
    "length": 1,
    "random": 1,
}
_CELLS = 2_000_000  # resamples times rows that are looked at together
_ROWS_DRAWN = 4_000_000  # rows of all resamples, above which fewer are drawn


@dataclass(frozen=True)
class Rows:
    """A scored corpus whose kinds are known, in the order of ids: kind [N], cost in tokens [N] and signals [N] each, a higher
    one being more specific."""

    kinds: np.ndarray
    costs: np.ndarray
    signals: Mapping[str, np.ndarray]
    without: int = 0  # rows left out because some signal has no value there


@dataclass(frozen=True)
class Estimate:
    """A figure on all rows, and on every resample of them [B]."""

    value: float
    resampled: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% percentile interval; NaN where no resample has a value."""
        values = self.resampled[~np.isnan(self.resampled)]
        low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
        return float(low), float(high)


def read(run: Path) -> Rows:
    """The scored rows of a published run of the demo's corpus; its column `kind` stands in `extra`."""
    columns = ["id", "extra", "n_prompt_tokens", "n_target_tokens", *SIGNALS]
    table = pyarrow.dataset.dataset(run / "scored").to_table(columns=columns).sort_by("id")
    signals = {name: sign * table[name].to_numpy().astype(np.float64) for name, sign in SIGNALS.items()}
    kinds = np.array([json.loads(extra)["kind"] for extra in table["extra"].to_pylist()])
    costs = table["n_prompt_tokens"].to_numpy().astype(np.int64) + table["n_target_tokens"].to_numpy()
    scored = np.isfinite(list(signals.values())).all(axis=0)
    return Rows(
        kinds[scored], costs[scored], {name: values[scored] for name, values in signals.items()}, int((~scored).sum())
    )


@functools.lru_cache(maxsize=1)  # all figures of a table rest on the same ones
def resamples(rows: int, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """`count` bootstrap resamples in pieces of int32 [B, N]: how often each row was drawn."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(1, rows))
    pieces = []
    for start in range(0, count, step):
        drawn = [rng.integers(rows, size=rows) for _ in range(min(step, count - start))]
        pieces.append(np.stack([np.bincount(places, minlength=rows) for places in drawn]).astype(np.int32))
    return tuple(pieces)


def auroc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, count: int = 0, seed: int = 0) -> Estimate:
    """The probability that a positive row scores above a negative one, a tie counting half (the Mann-Whitney statistic).

    `scores` is float [N], `positive` and `negative` are bool [N]; rows that are neither do not count.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ups, downs = positive[order], negative[order]

    def of(weights_BN: np.ndarray) -> np.ndarray:
        drawn = weights_BN[:, order]
        above = np.add.reduceat(drawn * ups, starts, axis=1).astype(np.float64)
        below = np.add.reduceat(drawn * downs, starts, axis=1).astype(np.float64)
        wins = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            rates: np.ndarray = wins / (above.sum(axis=1) * below.sum(axis=1))
        return rates

    return _estimate(of, len(scores), count, seed)


def share(
    scores: np.ndarray, costs: np.ndarray, wanted: np.ndarray, fraction: float, count: int = 0, seed: int = 0
) -> Estimate:
    """The share of `wanted` rows (bool [N]) in the longest prefix of the ranking whose cost fits `fraction` of all cost.

    A row that was drawn twice into a resample costs twice and counts twice. Ties go by the order of rows, as in selection.
    """
    order = np.argsort(-scores, kind="stable")
    paid, good = costs[order], wanted[order]

    def of(weights_BN: np.ndarray) -> np.ndarray:
        drawn = weights_BN[:, order]
        running = (drawn * paid).cumsum(axis=1)
        taken = drawn * (running <= np.floor(running[:, -1:] * fraction + 1e-9))
        with np.errstate(invalid="ignore"):
            rates: np.ndarray = (taken * good).sum(axis=1) / taken.sum(axis=1)
        return rates

    return _estimate(of, len(scores), count, seed)


def _estimate(of: Callable[[np.ndarray], np.ndarray], rows: int, count: int, seed: int) -> Estimate:
    drawn = [of(weights) for weights in resamples(rows, count, seed)]
    return Estimate(float(of(np.ones((1, rows), dtype=np.int64))[0]), np.concatenate([*drawn, np.zeros(0)]))


def aurocs(rows: Rows, scores: np.ndarray, count: int) -> dict[str, Estimate]:
    """AUROC of specific rows against each other kind, and against all."""
    specific = rows.kinds == "specific"
    negatives = {**{kind: rows.kinds == kind for kind in OTHERS}, ALL: ~specific}
    return {kind: auroc(scores, specific, negative, count) for kind, negative in negatives.items()}


def shares(rows: Rows, scores: np.ndarray, count: int) -> dict[float, Estimate]:
    """Share of specific rows within each budget."""
    return {fraction: share(scores, rows.costs, rows.kinds == "specific", fraction, count) for fraction in FRACTIONS}


def section(rows: Rows, count: int | None = None) -> str:
    """The demo summary's words on its planted truth: how well each signal finds the specific rows.

    Intervals of `count` resamples; by default 200, and fewer where there are so many rows that they would take long.
    """
    if not len(rows.kinds):
        return "\nplanted      no row has every score"
    count = int(np.clip(_ROWS_DRAWN / len(rows.kinds), 50, 200)) if count is None else count
    specific, names = int((rows.kinds == "specific").sum()), [*OTHERS, ALL]
    left_out = f"; {rows.without:,} rows without a score left out" if rows.without else ""
    lines = [
        "",
        f"planted      {specific:,} of {len(rows.kinds):,} rows are specific by construction{left_out}",
        "             specific: only its instruction gives this output; ambiguous: others give it too; mismatched: it is",
        "             another's; generic: it fits any; noisy: it is corrupted. In brackets: 95% intervals (bootstrap)",
        "             AUROC: how often a specific row ranks above one of another kind; 0.5 is chance. A minus: lowest first",
        _line("AUROC", "against", names),
    ]
    for name, scores in rows.signals.items():
        by_kind = aurocs(rows, scores, count)
        lines.append(_line("", _shown(name), [_number(by_kind[kind]) for kind in names]))
    of_all = f"{specific / len(rows.kinds):.0%} of all rows"
    lines.append(f"             specific rows among those that a budget takes, best first; they are {of_all}")
    lines.append(_line("specific", "share", [f"budget {fraction:.0%}" for fraction in FRACTIONS]))
    for name, scores in rows.signals.items():
        by_fraction = shares(rows, scores, count)
        lines.append(_line("", _shown(name), [_percent(by_fraction[fraction]) for fraction in FRACTIONS]))
    return "\n".join(lines)


def _line(title: str, name: str, cells: Sequence[str]) -> str:
    return f"{title:<13}{name:<10}" + "".join(f"{cell:>18}" for cell in cells)


def _shown(name: str) -> str:
    return f"-{name}" if SIGNALS[name] < 0 else name


def _number(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "-"  # one of the two kinds has no row
    low, high = estimate.interval
    return f"{estimate.value:.3f} [{low:.2f} {high:.2f}]"


def _percent(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "-"  # no row fits
    low, high = estimate.interval
    return f"{estimate.value:.1%} [{100 * low:.0f} {100 * high:.0f}]"
