"""The figures of a report, from the sample of a tally: distributions, how a selection moves, how sure its end is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.scoring.draw import keys_of
from pipeline.report.rows import left_out, order_keys
from pipeline.report.scales import POSITIVE, Scale, scale_of
from pipeline.report.tally import SAMPLE, SCORED, SELECTION, Tally
from pipeline.runs.score_digest import QUANTILES

DISTRIBUTIONS = ("tss", "tss_pp", "ppl", "ifd")
BINS, CELLS, RANK_BINS = 36, (34, 26), 20
_BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the run's own
_TEMPERATURES = (
    0.0,
    0.1,
    0.25,
    0.5,
    1.0,
    float("inf"),
)  # of tss_pp; other scores: of their spread, a quarter for each 0.25
ROUNDING = 1e-4  # of a mean log-likelihood in float32, however batches are cut


@dataclass(frozen=True)
class Histogram:
    """Rows of a column in bins: their edges, the share of all rows and of the selected ones; quantiles of both."""

    column: str
    scale: Scale
    edges: list[float]
    every: list[float]
    selected: list[float]
    quantiles: list[float]
    selected_quantiles: list[float]


@dataclass(frozen=True)
class Cell:
    """A cell of the plane of two columns: its ends, its rows and how many of them are selected."""

    x: tuple[float, float]
    y: tuple[float, float]
    rows: int
    selected: int


@dataclass(frozen=True)
class Plane:
    """Cells over the plane of ppl (x) and tss_pp (y)."""

    x: Scale
    y: Scale
    cells: list[Cell]


@dataclass(frozen=True)
class Move:
    """A selection at another budget and temperature: its share of the run's corpus by cost, its rows, the share that it has in
    common with the run's own of the smaller of the two, and medians."""

    temperature: float
    budget: float
    times: float  # of the run's own budget
    rows: int
    common: float | None
    medians: dict[str, float | None]


@dataclass(frozen=True)
class Sureness:
    """How sure the end of a selection is; None where it cannot be known of this run."""

    last_score: float | None  # of the last row that was taken, and the key by which it was ranked
    last_key: float | None
    next_score: float | None  # of the first that was left out, among those of the sample
    next_key: float | None
    rounding: float | None  # of a key, where likelihoods are of float32
    within_rounding: int
    halves: float | None  # share of rows that two halves of the alternatives select alike


@dataclass(frozen=True)
class Figures:
    """All of them. `sampled` rows they are from, which are all rows where there are no more than SAMPLE."""

    sampled: int
    histograms: list[Histogram]
    plane: Plane | None
    moves: list[Move]
    sureness: Sureness | None
    by_rank: list[
        tuple[float, float]
    ]  # from the best by the run's score: a share of rows, and the share of these selected


@dataclass(frozen=True)
class Run:
    """What the figures need to know of a run beside its tally."""

    temperature: float
    budget: float  # of the cost of all rows
    seed: int
    unscaled: bool  # whether it ranks by tss_pp, in whose units the usual temperatures are
    in_float32: bool
    alpha: float
    tau: float
    quantiles: list[float]  # of tss_pp, as the summary says them; none where no row has one
    bounded: bool  # whether rows were left without a score, which other selections could have taken
    simple: bool  # whether one end of one ranking decides: no caps, no quota, no conversations


def figures(tally: Tally, run: Run) -> Figures | None:
    """The figures of a tally; None where it has no rows."""
    if SCORED not in tally or not len(tally[SCORED]):
        return None
    rows = tally[SCORED]
    selected = _selected(tally)
    known = {"tss_pp": run.quantiles} if run.quantiles else {}
    histograms = [
        replace(histogram, quantiles=known.get(name, histogram.quantiles))
        for name in DISTRIBUTIONS
        if (histogram := _histogram(name, _values(rows, name), selected)) is not None
    ]
    ranked = rows["passes"].to_numpy()
    return Figures(
        sampled=len(rows) if len(rows) < SAMPLE else SAMPLE,
        histograms=histograms,
        plane=_plane(_values(rows, "ppl"), _values(rows, "tss_pp"), selected),
        moves=_moves(rows, selected, run) if ranked.any() and not run.bounded else [],
        sureness=_sureness(tally, run) if ranked.any() and selected.any() else None,
        by_rank=_by_rank(rows, selected) if ranked.any() else [],
    )


def _selected(tally: Tally) -> np.ndarray:
    """Bool [N]: which sampled rows are selected."""
    if SELECTION not in tally:
        return np.zeros(len(tally[SCORED]), dtype=bool)
    taken = pc.is_in(tally[SCORED]["id"], value_set=tally[SELECTION]["id"].combine_chunks())
    return np.asarray(taken.to_numpy(), dtype=bool)


def _values(rows: pa.Table, name: str) -> np.ndarray:
    """Float64 [N], NaN where there is none."""
    return np.asarray(rows[name].to_numpy(), dtype=np.float64)


def _histogram(name: str, values: np.ndarray, selected: np.ndarray) -> Histogram | None:
    scale = scale_of(values, name)
    if scale is None:
        return None
    known = np.isfinite(values) & ((values > 0) | (name not in POSITIVE))
    shares, quantiles = [], []
    for mask in (known, known & selected):
        counts = np.bincount(scale.bins_of(values[mask], BINS), minlength=BINS)
        shares.append((counts / max(1, counts.sum())).tolist())
        quantiles.append(np.quantile(values[mask], QUANTILES).tolist() if mask.any() else [])
    return Histogram(name, scale, scale.edges(BINS).tolist(), shares[0], shares[1], quantiles[0], quantiles[1])


def _plane(ppl: np.ndarray, score: np.ndarray, selected: np.ndarray) -> Plane | None:
    known = np.isfinite(ppl) & np.isfinite(score) & (ppl > 0)
    x, y = scale_of(ppl[known], "ppl"), scale_of(score[known], "tss_pp")
    if x is None or y is None:
        return None
    columns, lines = CELLS
    places = x.bins_of(ppl[known], columns) * lines + y.bins_of(score[known], lines)
    counts, taken = (np.bincount(places[mask], minlength=columns * lines) for mask in (slice(None), selected[known]))
    x_edges, y_edges = x.edges(columns), y.edges(lines)
    cells = []
    for place in np.flatnonzero(counts):
        column, line = divmod(int(place), lines)
        ends = (float(x_edges[column]), float(x_edges[column + 1])), (float(y_edges[line]), float(y_edges[line + 1]))
        cells.append(Cell(*ends, int(counts[place]), int(taken[place])))
    return Plane(x, y, cells)


def _take(keys: np.ndarray, costs: np.ndarray, room: float) -> np.ndarray:
    """Bool [N]: the longest prefix of the ranking by these keys that fits; NaN is never taken."""
    ranked = np.argsort(-keys, kind="stable")
    ranked = ranked[np.isfinite(keys[ranked])]
    fits = np.cumsum(costs[ranked]) <= room
    taken = np.zeros(len(keys), dtype=bool)
    taken[ranked[fits]] = True
    return taken


def temperatures(run: Run, spread: float) -> list[float]:
    """The temperatures that are compared, the run's own among them."""
    unit = 1.0 if run.unscaled else float(f"{spread:.1g}") if spread > 0 else 1.0
    return sorted({*(value * unit for value in _TEMPERATURES), run.temperature})


def _moves(rows: pa.Table, selected: np.ndarray, run: Run) -> list[Move]:
    """Selections at other budgets and temperatures, without caps and quotas, among the sampled rows."""
    costs, passes = rows["cost"].to_numpy(), rows["passes"].to_numpy()
    scores, uniform = _values(rows, "score"), _values(rows, "random")
    total = costs.sum()
    moves = []
    for temperature in temperatures(run, float(np.nanstd(scores[passes]))):
        keys = np.where(passes, keys_of(scores, uniform, temperature), np.nan)
        for times in _BUDGETS:
            if (budget := run.budget * times) > 1 and times > 1:
                continue
            taken = _take(keys, costs, budget * total)
            smaller = min(taken.sum(), selected.sum())
            common = float((taken & selected).sum() / smaller) if smaller else None
            medians = {name: _median(_values(rows, name)[taken]) for name in ("tss_pp", "ppl", "length")}
            moves.append(Move(temperature, budget, times, int(taken.sum()), common, medians))
    return moves


def _median(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _by_rank(rows: pa.Table, selected: np.ndarray) -> list[tuple[float, float]]:
    """Of rows in the order of the run's score, best first, in equal bins: which share of each is selected."""
    passes = rows["passes"].to_numpy()
    ranked = np.flatnonzero(passes)[np.argsort(-_values(rows, "score")[passes], kind="stable")]
    bins = np.array_split(selected[ranked], min(RANK_BINS, len(ranked)))
    return [((number + 1) / len(bins), float(some.mean())) for number, some in enumerate(bins)]


def _sureness(tally: Tally, run: Run) -> Sureness | None:
    rows, last = tally[SCORED], tally["last"].slice(0, 1)
    if not run.simple or not len(last):
        return None
    last_key = float(order_keys(last, run.temperature)[0])
    after = left_out(tally, run.temperature).slice(0, 1)
    passes = rows["passes"].to_numpy()
    keys = np.where(passes, order_keys(rows, run.temperature), np.nan)
    rounding = None
    if run.in_float32 and run.unscaled:
        # A score moves by this at most where s(I) and the s_k move by ROUNDING, and a key by its share of the temperature.
        rounding = ROUNDING * (2 / run.tau + run.alpha) / (run.temperature or 1.0)
    near = 0 if rounding is None else int((np.abs(keys - last_key) <= rounding).sum())
    score, key = _values(after, "score"), order_keys(after, run.temperature)
    return Sureness(
        last_score=float(_values(last, "score")[0]),
        last_key=last_key,
        next_score=float(score[0]) if len(after) else None,
        next_key=float(key[0]) if len(after) else None,
        rounding=rounding,
        within_rounding=near,
        halves=_halves(rows, passes, run),
    )


def _alike(rows: pa.Table, first: np.ndarray, second: np.ndarray, run: Run) -> float | None:
    """The share of rows that two keys select alike under the run's budget, of the smaller selection of the two."""
    costs = rows["cost"].to_numpy()
    room = run.budget * costs.sum()
    some, other = (_take(keys, costs, room) for keys in (first, second))
    smaller = min(some.sum(), other.sum())
    return float((some & other).sum() / smaller) if smaller else None


def _halves(rows: pa.Table, passes: np.ndarray, run: Run) -> float | None:
    if not run.unscaled or run.bounded:
        return None
    uniform = _values(rows, "random")
    halves = [_values(rows, name) for name in ("half_a", "half_b")]
    both = passes & np.isfinite(halves[0]) & np.isfinite(halves[1])
    if not both.any():
        return None
    first, second = (np.where(both, keys_of(half, uniform, run.temperature), np.nan) for half in halves)
    return _alike(rows, first, second, run)
