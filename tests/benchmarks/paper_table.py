"""What finished cells of paper.py say, beside the paper's figures: means, paired intervals, and winners where there are any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

DRAWS = 2000
RANDOM, ZERO_SHOT = "random", "zero-shot"
SUM = "SUM"
# arXiv 2602.03103, SUM: of each model the corpora alpaca, dolly and ni20; at a budget that of random, the best, and whose.
PAPER_ZERO_SHOT = {"Gemma-3-1B-PT": 129.923, "Llama-3.2-1B": 127.493, "Qwen3-0.6B-Base": 154.218}
PAPER_CORPORA = ("alpaca", "dolly", "ni20")
PAPER_ALL = {
    "Gemma-3-1B-PT": (135.176, 131.509, 128.977),
    "Llama-3.2-1B": (139.388, 138.191, 132.912),
    "Qwen3-0.6B-Base": (156.843, 152.394, 151.595),
}
PAPER_BEST: dict[float, dict[str, tuple[tuple[float, float, str], ...]]] = {
    0.05: {
        "Gemma-3-1B-PT": ((132.758, 132.902, "TSS"), (130.091, 130.950, "TSS++ (E)"), (130.491, 132.137, "TSS")),
        "Llama-3.2-1B": ((141.921, 142.704, "TSS++ (E)"), (140.270, 140.573, "TSS++"), (140.642, 140.642, "random")),
        "Qwen3-0.6B-Base": (
            (156.415, 157.162, "TSS++ (E)"),
            (152.514, 153.582, "TSS++ (E)"),
            (154.376, 155.153, "TSS++ (E)"),
        ),
    },
    0.15: {
        "Gemma-3-1B-PT": ((134.250, 134.250, "random"), (130.724, 132.231, "TSS (E)"), (129.941, 131.834, "TSS")),
        "Llama-3.2-1B": ((141.825, 144.603, "TSS++"), (140.234, 140.646, "PPL"), (140.717, 140.717, "random")),
        "Qwen3-0.6B-Base": (
            (158.580, 159.215, "IFD"),
            (152.303, 154.110, "TSS++ (E)"),
            (151.884, 154.765, "TSS (E)"),
        ),
    },
}
Values = list[np.ndarray]  # of each part of a measure, an array of seeds x rows
STUDY = (
    "corpus",
    "scorer",
    "run",
    "model",
    "version",
    "unit",
)  # what cells that are compared share, beside `shared` and the budget


@dataclass(frozen=True)
class Interval:
    """A mean, and a 95% interval around it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bootstrap(parts: Values, seed: int = 0) -> Interval:
    """Of the sum over parts of the mean over seeds and rows: both are drawn with replacement, rows of each part by themselves,
    seeds for all parts together.

    So few seeds vary less among themselves than seeds do: what a draw of S seeds adds is widened so that seeds alone would give
    the width of a t-interval. With one seed nothing is known of seeds, and the interval is unbounded.
    """
    seeds = len(parts[0])
    mean = float(sum(part.mean() for part in parts))
    if seeds < 2:
        return Interval(mean, -np.inf, np.inf)
    wider = (seeds / (seeds - 1)) ** 0.5 * stats.t.ppf(0.975, seeds - 1) / stats.norm.ppf(0.975)
    rng, draws = np.random.default_rng(seed), np.zeros(DRAWS)
    for number in range(DRAWS):
        counts = np.bincount(rng.integers(seeds, size=seeds), minlength=seeds)
        weights = 1 / seeds + wider * (counts - 1) / seeds  # of seeds; they add up to 1
        for part in parts:
            rows = part.shape[1]
            draws[number] += weights @ part[:, rng.integers(rows, size=rows)].mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(mean, float(low), float(high))


def apart(some: Mapping[int, Values], others: Mapping[int, Values]) -> Interval | None:
    """How far one method is above another, row by row and seed by seed; None where they share no seed."""
    seeds = sorted(set(some) & set(others))
    if not seeds:
        return None
    parts = [np.stack([some[seed][part] - others[seed][part] for seed in seeds]) for part in range(len(some[seeds[0]]))]
    return bootstrap(parts)


def mean_of(seeds: Mapping[int, Values]) -> float:
    return float(np.mean([sum(part.mean() for part in parts) for parts in seeds.values()]))


def verdict(methods: Mapping[str, Mapping[int, Values]]) -> tuple[str, str, list[str]]:
    """The best method by its mean; in words whether it is a winner; and the methods from which it is not told.

    It is one only where its interval against every other method lies above zero.
    """
    rivals = {name: seeds for name, seeds in methods.items() if name != ZERO_SHOT}
    best = max(rivals, key=lambda name: mean_of(rivals[name]))
    gaps = {name: apart(rivals[best], seeds) for name, seeds in rivals.items() if name != best}
    near = [name for name, gap in gaps.items() if gap is None or not gap.low > 0]
    if not gaps:
        return best, "no winner: nothing to compare it with", near
    if near:
        return (
            best,
            f"no winner: {best} has the best mean, and its interval touches zero against {', '.join(near)}",
            near,
        )
    least = min((gap for gap in gaps.values() if gap), key=lambda gap: gap.low)
    return best, f"winner: {best}, above every other method, by {least} at least", near


def values_of(result: Mapping[str, Any]) -> dict[str, Values]:
    """Every measure of a cell: of each corpus the likelihood of held-out rows and exact match of short ones, and SUM."""
    measures: dict[str, Values] = {}
    for corpus, held_out in result["held_out"].items():
        measures[f"loglik of {corpus}"] = [np.array(held_out["loglik"], dtype=np.float64)]
        short = [value for value in held_out["exact"] if value is not None]
        if short:
            measures[f"exact match of {corpus}"] = [np.array(short, dtype=np.float64)]
    if result.get("suite"):
        measures[SUM] = [100 * np.array(right, dtype=np.float64) for right in result["suite"].values()]
    return measures


@dataclass
class Study:
    """Cells that are compared: the settings that they share, and measure -> method -> seed -> values."""

    settings: dict[str, Any]
    measures: dict[str, dict[str, dict[int, Values]]]


def studies(cells: Sequence[Mapping[str, Any]]) -> list[Study]:
    """The studies of cells, at each budget; the model as it is stands beside every one of its model."""
    grouped: dict[str, Study] = {}
    trained = [cell for cell in cells if cell["settings"]["method"] != ZERO_SHOT]
    for cell in trained:
        settings = {name: cell["settings"][name] for name in (*STUDY, "budget", "shared")}
        study = grouped.setdefault(json.dumps(settings, sort_keys=True), Study(settings, {}))
        _add(study, cell)
    for cell in [cell for cell in cells if cell["settings"]["method"] == ZERO_SHOT]:
        for study in grouped.values():
            if all(cell["settings"][name] == study.settings[name] for name in ("model", "version", "shared")):
                _add(study, cell)
    return [grouped[key] for key in sorted(grouped)]


def _add(study: Study, cell: Mapping[str, Any]) -> None:
    for measure, parts in values_of(cell["result"]).items():
        methods = study.measures.setdefault(measure, {})
        methods.setdefault(cell["settings"]["method"], {})[cell["settings"]["seed"]] = parts


def table_of(measure: str, methods: Mapping[str, Mapping[int, Values]]) -> list[str]:
    """Means, and each method against random, best first."""
    rows = len(next(iter(next(iter(methods.values())).values()))[0])
    lines = [f"{measure} ({rows:,} rows)", "", "| method | seeds | mean | less random |", "|---|---|---|---|"]
    for name in sorted(methods, key=lambda name: -mean_of(methods[name])):
        gap = apart(methods[name], methods[RANDOM]) if RANDOM in methods and name not in (RANDOM, ZERO_SHOT) else None
        seeds = "" if name == ZERO_SHOT else len(methods[name])
        lines.append(f"| {name} | {seeds} | {mean_of(methods[name]):.4f} | {_in_words(gap)} |")
    return [*lines, "", verdict(methods)[1] + ".", ""]


def paper_lines(budgets: Sequence[float]) -> list[str]:
    """The paper's own figures for these budgets, as rows of the table of both sides."""
    lines = []
    for budget in [budget for budget in budgets if budget in PAPER_BEST]:
        for model, cells in PAPER_BEST[budget].items():
            for corpus, (random, best, by) in zip(PAPER_CORPORA, cells, strict=True):
                figures = f"{PAPER_ZERO_SHOT[model]:.3f} | {random:.3f} | {best:.3f} | {by} | {best - random:+.3f}, no interval"
                lines.append(f"| paper | {model}, {corpus} | {budget:.0%} | {SUM} | {figures} |")
    return lines


def report(cells: Sequence[Mapping[str, Any]]) -> str:
    """Tables of every study and measure, then the paper's side and ours in one."""
    grouped = studies(cells)
    if not grouped:
        return "no finished cell of a training"
    lines, ours = [], []
    for study in grouped:
        own = study.settings
        where, budget = f"{own['model']}, {own['corpus']}", f"{own['budget']:.0%} of {own['unit']}"
        lines += [f"## {where}, scored by {own['scorer']}: {budget}", "", json.dumps(own["shared"]["fit"]), ""]
        for measure, methods in study.measures.items():
            lines += table_of(measure, methods)
            ours.append(f"| here | {where} | {budget} | {measure} | {' | '.join(figures_of(methods))} |")
    head = [
        "| side | model, corpus | budget | measure | zero-shot | random | best | by | above random |",
        "|---" * 9 + "|",
    ]
    paper = paper_lines(sorted({study.settings["budget"] for study in grouped}))
    return "\n".join([*lines, "## The paper's figures and these", "", *head, *paper, *ours])


def figures_of(methods: Mapping[str, Mapping[int, Values]]) -> list[str]:
    """Zero-shot, random, the best mean, whose it is and from which others it is not told, and how far it is above random."""
    zero, random = (f"{mean_of(methods[name]):.4f}" if name in methods else "" for name in (ZERO_SHOT, RANDOM))
    best, _, near = verdict(methods)
    gap = apart(methods[best], methods[RANDOM]) if best != RANDOM and RANDOM in methods else None
    by = f"{best}, not told from {', '.join(near)}" if near else best
    return [zero, random, f"{mean_of(methods[best]):.4f}", by, _in_words(gap)]


def _in_words(gap: Interval | None) -> str:
    return "" if gap is None else str(gap) if np.isfinite(gap.low) else f"{gap.mean:+.4f}, one seed: no interval"
