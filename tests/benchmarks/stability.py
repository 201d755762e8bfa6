"""How much of a ranking by tss_pp is the rows', and how much is the setting's: scorers, templates, dtypes, alternatives, K.

    python tests/benchmarks/half_planted.py CORPUS --scorer SCORER --template alpaca plain chat --work WORK   # each setting
    python tests/benchmarks/stability.py WORK
    python tests/benchmarks/stability.py --runs RUN RUN       # folders of published runs over the same corpus

Compares all settings that `half_planted.py` has kept in WORK, which are of the same rows, or two runs over the rows that have a
score in both: the rank correlation of tss_pp over the real rows, and what the best 15% of these have in common (Jaccard), with
95% intervals of a bootstrap over rows.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pyarrow.dataset
from half_planted import NEAR, RANDOM, Scored, kept
from half_planted_corpus import REAL
from real_rows import FRACTION, overlap

from operators.scoring.fitness import spearman

K = 8


def compared(left: np.ndarray, right: np.ndarray, resamples: int) -> list[str]:
    """Both figures of two scores [N] of the same rows, with their intervals."""
    usable = np.isfinite(left) & np.isfinite(right)
    left, right = left[usable], right[usable]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(left), size=len(left)) for _ in range(resamples)]
    cells = []
    for measure in (spearman, overlap):
        value = measure(left, right)
        low, high = np.quantile([measure(left[rows], right[rows]) or 0.0 for rows in draws], (0.025, 0.975))
        cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
    return cells


def scores_of(scored: Scored) -> dict[str, np.ndarray]:
    """tss_pp of the real rows by alternatives: near ones at each K, random ones at K."""
    real = scored.kinds == REAL
    asked = {f"{k} {NEAR}": (NEAR, k) for k in (2, 4, 8, 16)} | {f"{K} {RANDOM}": (RANDOM, K)}
    return {name: scored.signals(origin, k)["tss_pp"][real] for name, (origin, k) in asked.items()}


def scores_of_runs(first: Path, second: Path) -> tuple[np.ndarray, np.ndarray]:
    """tss_pp [N] of the rows that have it in both of two runs, in the order of their ids."""
    tables = (pyarrow.dataset.dataset(run / "scored").to_table(["id", "tss_pp"]).drop_null() for run in (first, second))
    left, right = (dict(zip(table["id"].to_pylist(), table["tss_pp"].to_pylist(), strict=True)) for table in tables)
    both = sorted(left.keys() & right.keys())
    return np.array([left[id] for id in both]), np.array([right[id] for id in both])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    if bool(options.runs) == bool(options.work):
        parser.error("accepted: the WORK of half_planted.py, or --runs and two runs")
    if options.runs:
        left, right = scores_of_runs(*options.runs)
        cells = compared(left, right, options.resamples)
        print(f"{len(left)} rows | {' | '.join(cells)} |")
        return
    settings = {path.stem: kept(path) for path in sorted(options.work.glob("*-retrieved.npz"))}
    heads = ["setting", "beside", "Spearman of tss_pp", f"best {FRACTION:.0%} in common"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    default = f"{K} {NEAR}"
    for (name, left), (other, right) in itertools.combinations(settings.items(), 2):
        cells = compared(scores_of(left)[default], scores_of(right)[default], options.resamples)
        print(f"| {name} | {other} | {' | '.join(cells)} |")
    for name, scored in settings.items():
        values = scores_of(scored)
        for alternatives in values:
            if alternatives != default:
                cells = compared(values[default], values[alternatives], options.resamples)
                print(f"| {name}, {default} | {alternatives} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
