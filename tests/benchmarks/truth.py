"""Do the scores find the rows that are specific by construction, and what do K, h, tau, alpha and hard alternatives add?

    python tests/benchmarks/truth.py
    python tests/benchmarks/truth.py --equal-shares --seed 1 --set embedder.model=MINILM

Scores the demo's corpus once against every instruction of its pool. All settings below then follow from the same stored
likelihoods: the K nearest alternatives are the first K, and easy ones are K drawn at random for each row. The first table
compares signals, the second varies one constant at a time from the defaults, the third says what easy alternatives cost.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import planted
import pyarrow.dataset
from scipy import stats

from operators.scoring import scores
from pipeline.config import Alternatives, Score
from pipeline.demo import truth
from pipeline.demo.corpus import KIND_SHARES

WHOLE_POOL = 1000
KS, HARDEST = (1, 2, 4, 8, 16), (1, 2, 4, 8)
TAUS, ALPHAS = (0.1, 0.25, 0.5, 1.0, 2.0), (0.0, 0.1, 0.25, 0.5, 1.0)
HARD, EASY = "hard", "random"


@dataclass(frozen=True)
class Setting:
    """Which alternatives, and the constants of tss_pp."""

    alternatives: str = HARD
    k: int = Alternatives().k
    hardest: int = Score().hardest
    tau: float = Score().tau
    alpha: float = Score().alpha


@dataclass(frozen=True)
class Likelihoods:
    """s(I) [N], the s_k of every instruction of the pool, nearest first [N, K] with NaN at the end, and the tokens of each
    output [N], in the order of `truth.Rows`."""

    own: np.ndarray
    others: np.ndarray
    lengths: np.ndarray

    def chosen(self, setting: Setting, seed: int) -> np.ndarray:
        """The s_k of each row's K alternatives [N, K]."""
        if setting.alternatives == HARD:
            return self.others[:, : setting.k]
        order = np.random.default_rng(seed).uniform(size=self.others.shape)
        order[np.isnan(self.others)] = 2.0
        return np.take_along_axis(self.others, order.argsort(axis=1)[:, : setting.k], axis=1)


def read_likelihoods(run: Path) -> Likelihoods:
    """All likelihoods of a published run, rows in the order of ids."""
    columns = ["id", "loglik_mean", "alternatives", "n_target_tokens"]
    table = pyarrow.dataset.dataset(run / "scored").to_table(columns=columns).sort_by("id")
    own, lengths = (table[name].to_numpy().astype(np.float64) for name in ("loglik_mean", "n_target_tokens"))
    return Likelihoods(own, scores.alternative_means(table["alternatives"]), lengths)


def read_instructions(run: Path) -> np.ndarray:
    """The instruction of each row, in the order of ids."""
    table = pyarrow.dataset.dataset(run / "scored").to_table(columns=["id", "instruction"]).sort_by("id")
    return np.array(table["instruction"].to_pylist(), dtype=object)


def both_scores(known: Likelihoods, setting: Setting, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """tss and tss_pp [N] under a setting, by the functions of the pipeline."""
    others, lengths = known.chosen(setting, seed), known.lengths
    return (
        scores.tss(known.own * lengths, others * lengths[:, None]),
        scores.tss_pp(known.own, others, hardest=setting.hardest, tau=setting.tau, alpha=setting.alpha),
    )


def old_tss_pp(known: Likelihoods, setting: Setting, seed: int) -> np.ndarray:
    """The form that early releases computed, (1 + 0.5) s(I) - log mean over H of exp s_k, for comparison."""
    hard = -np.sort(-known.chosen(setting, seed), axis=1)[:, : setting.hardest]
    count = np.maximum(1, (~np.isnan(hard)).sum(axis=1))
    return 1.5 * known.own - (scores.log_sum_exp(hard) - np.log(count))


def settings() -> list[Setting]:
    """One constant at a time from the defaults, with hard and with easy alternatives."""
    found = []
    for alternatives in (HARD, EASY):
        default = Setting(alternatives)
        found += [replace(default, k=k) for k in KS]
        found += [replace(default, k=k, hardest=hardest) for k in (8, 16) for hardest in HARDEST]
        found += [replace(default, tau=tau, alpha=alpha) for tau in TAUS for alpha in ALPHAS]
    return list(dict.fromkeys(found))


def shown(found: truth.Estimate, sign: str = "") -> str:
    low, high = found.interval
    return f"{found.value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def difference(one: truth.Estimate, other: truth.Estimate) -> truth.Estimate:
    """Resample by resample."""
    return truth.Estimate(one.value - other.value, one.resampled - other.resampled)


def covered(rows: truth.Rows, values: np.ndarray, instructions: np.ndarray) -> str:
    """How many instructions the top of a ranking holds, within 5, 15 and 30% of the tokens."""
    order = np.argsort(-values, kind="stable")
    paid = rows.costs[order].cumsum()
    return ", ".join(
        str(len(np.unique(instructions[order[paid <= paid[-1] * fraction]]))) for fraction in (0.05, 0.15, 0.3)
    )


def old_and_new(rows: truth.Rows, known: Likelihoods, instructions: np.ndarray, options: argparse.Namespace) -> str:
    """The early form of tss_pp beside eq. 1, 2 and 3 at the defaults."""
    specific, setting = rows.kinds == "specific", Setting()
    plain, better = both_scores(known, setting, options.seed)
    forms = {
        "early tss_pp (lam 0.5, tau 1)": old_tss_pp(known, setting, options.seed),
        "tss, eq. 1": plain,
        "tss_nce, eq. 2": both_scores(known, replace(setting, alpha=0.0), options.seed)[1],
        "tss_pp, eq. 3": better,
        "-ppl": known.own,
    }
    heads = ["score", *truth.OTHERS, truth.ALL, "specific in 15%", "Spearman with -ppl", "instructions at 5, 15, 30%"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, values in forms.items():
        by_kind = truth.aurocs(rows, values, options.resamples)
        inside = truth.share(values, rows.costs, specific, 0.15, options.resamples)
        cells = [shown(by_kind[kind]) for kind in (*truth.OTHERS, truth.ALL)]
        cells += [shown(inside), f"{stats.spearmanr(values, known.own).statistic:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {covered(rows, values, instructions)} |")
    return "\n".join(lines)


def settings_table(rows: truth.Rows, known: Likelihoods, instructions: np.ndarray, options: argparse.Namespace) -> str:
    """tss and tss_pp under every setting, beside the default."""
    everything = rows.kinds != "specific"
    specific = ~everything

    def against_all(values: np.ndarray) -> truth.Estimate:
        return truth.auroc(values, specific, everything, options.resamples)

    default = against_all(both_scores(known, Setting(), options.seed)[1])
    heads = ["alternatives", "K", "h", "tau", "alpha", "tss", "tss_pp", "tss_pp less the default"]
    heads += [
        "against ambiguous",
        "against noisy",
        "specific in 15%",
        "Spearman with -ppl",
        "instructions at 5, 15, 30%",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for setting in settings():
        plain, better = both_scores(known, setting, options.seed)
        against = against_all(better)
        kinds = [
            truth.auroc(better, specific, rows.kinds == kind, options.resamples) for kind in ("ambiguous", "noisy")
        ]
        inside = truth.share(better, rows.costs, specific, 0.15, options.resamples)
        marks = [
            setting.alternatives,
            setting.k,
            min(setting.hardest, setting.k),
            f"{setting.tau:g}",
            f"{setting.alpha:g}",
        ]
        if setting == Setting():
            marks[0] = f"**{HARD}, default**"
        cells = [*marks, shown(against_all(plain)), shown(against), shown(difference(against, default), "+")]
        repeats = f"{stats.spearmanr(better, known.own).statistic:.2f}"
        cells += [*map(shown, kinds), shown(inside), repeats, covered(rows, better, instructions)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def easy_table(rows: truth.Rows, known: Likelihoods, options: argparse.Namespace) -> str:
    """What tss loses with random alternatives, and how much of it tss_pp keeps."""
    specific = rows.kinds == "specific"
    heads = ["K", "tss, hard", "tss, random", "tss loses", "tss_pp, random", "tss_pp keeps", "of the loss"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for k in KS:
        hard, easy = (Setting(alternatives, k=k) for alternatives in (HARD, EASY))
        best = truth.auroc(both_scores(known, hard, options.seed)[0], specific, ~specific, options.resamples)
        plain, better = (
            truth.auroc(values, specific, ~specific, options.resamples)
            for values in both_scores(known, easy, options.seed)
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
        rows, known, instructions = truth.read(run), read_likelihoods(run), read_instructions(run)
        if rows.without:
            raise SystemExit(f"{rows.without} rows lack a score, so that rows and likelihoods do not belong together")
    plain, better = both_scores(known, Setting(), options.seed)
    by_default = replace(rows, signals={**rows.signals, "tss": plain, "tss_pp": better})
    print(truth.section(by_default, options.resamples))
    print(f"\nOld and new\n\n{old_and_new(rows, known, instructions, options)}")
    print(f"\nAUROC of specific rows against all others, {options.resamples} resamples\n")
    print(settings_table(rows, known, instructions, options))
    print(f"\nEasy alternatives\n\n{easy_table(rows, known, options)}")


if __name__ == "__main__":
    main()
