"""How much of a score is perplexity on real rows: rank correlations and overlaps for settings of tau, alpha, h and K.

    python ../shared/tools/real_models.py smollm2 SMOLLM2
    head -250 ../shared/data/alpaca.jsonl > rows.jsonl
    tss run config.yaml        # input rows.jsonl, scorer.model SMOLLM2, scorer.template chat, alternatives.k 8
    python tests/benchmarks/real_rows.py OUTPUT

All settings follow from the likelihoods of one published run; the K nearest alternatives are the first K.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.dataset
from scipy import stats

from operators.scoring import scores
from pipeline.config import Score
from pipeline.runs import open_run

KS, HARDEST = (2, 4, 8), (1, 2, 4, 8)
TAUS, ALPHAS = (0.1, 0.25, 0.5, 1.0, 2.0), (0.0, 0.1, 0.25, 0.5, 1.0)
FRACTION = 0.15


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard index of the best FRACTION of the rows by two scores."""
    count = max(1, int(len(left) * FRACTION))
    first, second = (set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (left, right))
    return len(first & second) / len(first | second)


def line(name: str, values: np.ndarray, own: np.ndarray, nce: np.ndarray) -> str:
    """Of one score: its spread, its rank correlation with -ppl and with eq. 2, and the overlap with the lowest perplexities."""
    correlations = [stats.spearmanr(values, other).statistic for other in (own, nce)]
    cells = [f"{values.std():.2f}", *(f"{value:.2f}" for value in correlations), f"{overlap(values, own):.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="an output folder, or one of its runs/<id>")
    parser.add_argument("--k", type=int, default=4)
    options = parser.parse_args()
    run = Path(open_run.find_run(str(options.run))[1])
    columns = ["id", "loglik_mean", "n_target_tokens", "alternatives"]
    table = pyarrow.dataset.dataset(run / "scored").to_table(columns=columns).sort_by("id")
    all_others = scores.alternative_means(table["alternatives"])
    kept = ~np.isnan(all_others[:, : max(KS)]).any(axis=1)
    own, lengths = (table[name].to_numpy()[kept].astype(np.float64) for name in ("loglik_mean", "n_target_tokens"))
    all_others, default = all_others[kept], Score()
    others = all_others[:, : options.k]
    first = float((scores.rank(own, others) == 0).mean())
    print(
        f"{len(own)} rows with {max(KS)} alternatives; the true instruction ranks first of {options.k + 1} in {first:.0%}"
    )
    print(
        f"\n| score | sd | Spearman with -ppl | with eq. 2 | overlap with lowest ppl at {FRACTION:.0%} |\n|---|---|---|---|---|"
    )
    nce = scores.tss_nce(own, others, hardest=default.hardest, tau=default.tau)
    print(line("s(I) = -log ppl", own, own, nce))
    print(line("tss, eq. 1", scores.tss(own * lengths, others * lengths[:, None]), own, nce))
    for tau in TAUS:
        for alpha in ALPHAS:
            values = scores.tss_pp(own, others, hardest=default.hardest, tau=tau, alpha=alpha)
            print(line(f"tss_pp, tau {tau:g}, alpha {alpha:g}", values, own, nce))
    for k in KS:
        for hardest in [count for count in HARDEST if count <= k]:
            values = scores.tss_pp(own, all_others[:, :k], hardest=hardest, tau=default.tau, alpha=default.alpha)
            print(line(f"tss_pp at the defaults, K {k}, h {hardest}", values, own, nce))


if __name__ == "__main__":
    main()
