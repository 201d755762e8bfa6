"""Do the scores find the rows that are specific by construction, and what do K, h, lam and hard alternatives add?

    python tests/benchmarks/truth.py
    python tests/benchmarks/truth.py --equal-shares --seed 1 --set embedder.model=MINILM

Scores the demo's corpus once against every instruction of its pool. All settings below then follow from the same stored
likelihoods: the K nearest alternatives are the first K, and easy ones are K drawn at random for each row. The first table
compares signals, the second varies one constant at a time from the defaults, the third says what easy alternatives cost.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import planted
import pyarrow.dataset

from operators.scoring import scores
from pipeline.config import Alternatives, Score
from pipeline.demo import truth
from pipeline.demo.corpus import KIND_SHARES

WHOLE_POOL = 1000
KS, HARDEST, WEIGHTS = (1, 2, 4, 8, 16), (1, 2, 4, 8), (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
HARD, EASY = "hard", "random"


@dataclass(frozen=True)
class Setting:
    """Which alternatives, and the constants of tss_pp."""

    alternatives: str = HARD
    k: int = Alternatives().k
    hardest: int = Score().hardest
    lam: float = Score().quality_weight


@dataclass(frozen=True)
class Likelihoods:
    """l(I) [N], and the l_k of every instruction of the pool, nearest first: N arrays, in the order of `truth.Rows`."""

    own: np.ndarray
    others: list[np.ndarray]

    def chosen(self, setting: Setting, seed: int) -> Iterator[tuple[float, np.ndarray]]:
        """l(I) and the l_k of each row's K alternatives."""
        for row, (own, others) in enumerate(zip(self.own, self.others, strict=True)):
            if setting.alternatives == HARD:
                yield own, others[: setting.k]
            else:
                yield own, np.random.default_rng((seed, row)).permutation(others)[: setting.k]


def read_likelihoods(run: Path) -> Likelihoods:
    """All likelihoods of a published run, rows in the order of ids."""
    columns = ["id", "loglik_mean", "alternatives"]
    table = pyarrow.dataset.dataset(run / "scored").to_table(columns=columns).sort_by("id")
    others = [
        np.array([one["loglik_mean"] for one in row], dtype=np.float64) for row in table["alternatives"].to_pylist()
    ]
    return Likelihoods(table["loglik_mean"].to_numpy().astype(np.float64), others)


def both_scores(found: Likelihoods, setting: Setting, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """tss and tss_pp [N] under a setting, by the functions of the pipeline."""
    both = [
        (
            scores.tss(own, others),
            scores.tss_pp(own, others, hardest=setting.hardest, tau=1.0, quality_weight=setting.lam),
        )
        for own, others in found.chosen(setting, seed)
    ]
    return np.array([one for one, _ in both]), np.array([other for _, other in both])


def settings() -> list[Setting]:
    """One constant at a time from the defaults, with hard and with easy alternatives."""
    found = []
    for alternatives in (HARD, EASY):
        default = Setting(alternatives)
        found += [replace(default, k=k) for k in KS]
        found += [replace(default, k=k, hardest=hardest) for k in (8, 16) for hardest in HARDEST]
        found += [replace(default, lam=lam) for lam in WEIGHTS]
    return list(dict.fromkeys(found))


def shown(found: truth.Estimate, sign: str = "") -> str:
    low, high = found.interval
    return f"{found.value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def difference(one: truth.Estimate, other: truth.Estimate) -> truth.Estimate:
    """Resample by resample."""
    return truth.Estimate(one.value - other.value, one.resampled - other.resampled)


def settings_table(rows: truth.Rows, found: Likelihoods, options: argparse.Namespace) -> str:
    """tss and tss_pp under every setting, beside the default."""
    everything = rows.kinds != "specific"
    specific = ~everything

    def against_all(values: np.ndarray) -> truth.Estimate:
        return truth.auroc(values, specific, everything, options.resamples)

    default = against_all(both_scores(found, Setting(), options.seed)[1])
    heads = ["alternatives", "K", "h", "lam", "tss", "tss_pp", "tss_pp less the default"]
    heads += ["against ambiguous", "against noisy", "specific in 15%"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for setting in settings():
        plain, better = both_scores(found, setting, options.seed)
        against = against_all(better)
        kinds = [
            truth.auroc(better, specific, rows.kinds == kind, options.resamples) for kind in ("ambiguous", "noisy")
        ]
        inside = truth.share(better, rows.costs, specific, 0.15, options.resamples)
        marks = [setting.alternatives, setting.k, min(setting.hardest, setting.k), f"{setting.lam:g}"]
        if setting == Setting():
            marks[0] = f"**{HARD}, default**"
        cells = [*marks, shown(against_all(plain)), shown(against), shown(difference(against, default), "+")]
        lines.append(f"| {' | '.join(map(str, [*cells, *map(shown, kinds), shown(inside)]))} |")
    return "\n".join(lines)


def easy_table(rows: truth.Rows, found: Likelihoods, options: argparse.Namespace) -> str:
    """What tss loses with random alternatives, and how much of it tss_pp keeps."""
    specific = rows.kinds == "specific"
    heads = ["K", "tss, hard", "tss, random", "tss loses", "tss_pp, random", "tss_pp keeps", "of the loss"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for k in KS:
        hard, easy = (Setting(alternatives, k=k) for alternatives in (HARD, EASY))
        best = truth.auroc(both_scores(found, hard, options.seed)[0], specific, ~specific, options.resamples)
        plain, better = (
            truth.auroc(values, specific, ~specific, options.resamples)
            for values in both_scores(found, easy, options.seed)
        )
        loss, kept = difference(best, plain), difference(better, plain)
        # A share of what is lost, where anything is: not where the interval of the loss holds zero.
        of_loss = f"{kept.value / loss.value:.0%}" if loss.interval[0] > 0 else "-"
        cells = [k, shown(best), shown(plain), shown(loss), shown(better), shown(kept, "+"), of_loss]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and of the random alternatives")
    parser.add_argument(
        "--equal-shares", action="store_true", help="a fifth of each kind, not the demo's half specific"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--work", type=Path, help="folder for corpus and run, used again where they exist")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="passed on to tss")
    options = parser.parse_args()
    shares = planted.EQUAL_SHARES if options.equal_shares else KIND_SHARES
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        run = planted.scored(work, options.rows, WHOLE_POOL, shares, options.seed, options.overrides)
        rows, found = truth.read(run), read_likelihoods(run)
        if rows.without:
            raise SystemExit(f"{rows.without} rows lack a score, so that rows and likelihoods do not belong together")
    plain, better = both_scores(found, Setting(), options.seed)
    by_default = replace(rows, signals={**rows.signals, "tss": plain, "tss_pp": better})
    print(truth.section(by_default, options.resamples))
    print(f"\nAUROC of specific rows against all others, {options.resamples} resamples\n")
    print(settings_table(rows, found, options))
    print(f"\nEasy alternatives\n\n{easy_table(rows, found, options)}")


if __name__ == "__main__":
    main()
