"""Do the scores of a real model find, among real rows, those that were spoilt on purpose?

    python ../shared/tools/real_models.py smollm2 SMOLLM2
    python tests/benchmarks/half_planted.py CORPUS --scorer SMOLLM2 --template alpaca plain chat --work WORK

Spoils some rows (`half_planted_corpus.py`), takes alternatives from a `tss run` with the bundled scorer, as they do not depend
on the scorer, and scores all of them with the scorer that is asked, by the pipeline's own functions, in this process. What is
scored is kept in WORK; `stability.py` compares it. Every figure is an AUROC of real rows against a kind of spoilt ones, with a
95% interval of a bootstrap over rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from half_planted_corpus import REAL, SPOILT, plant, read_rows

from operators.hashing import content_hash, fold_wording
from operators.prompts.tokenise import Encoder
from operators.retrieval.instruction_table import has_input
from operators.scoring import fitness, scores
from operators.scoring.encode_pairs import Candidates, encode_rows
from operators.scoring.score_rows import Scoring
from pipeline import demo, preflight, read_config
from pipeline.config import Config, Score
from pipeline.demo.truth import auroc
from pipeline.engine.encoder import cached_encoder
from pipeline.runs import open_run

CHECKOUT = Path(__file__).resolve().parents[2]
NEAR, RANDOM, GENERATED = "near", "random", "generated"
KS = (2, 4, 8, 16)
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Scored:
    """Rows of one setting in the order of ids: kind [N], s(I), s(0) and tokens [N], and by origin the s_k [N, K], NaN at the
    end."""

    kinds: np.ndarray
    own: np.ndarray
    empty: np.ndarray
    lengths: np.ndarray
    others: dict[str, np.ndarray]

    def signals(self, origin: str, k: int) -> dict[str, np.ndarray]:
        """Each score in the direction that finds real rows, under the first `k` alternatives of an origin."""
        asked, others = Score(), self.others[origin][:, :k]
        constants = {"hardest": asked.hardest, "tau": asked.tau}
        return {
            "tss_pp": scores.tss_pp(self.own, others, **constants, alpha=asked.alpha),
            "tss_nce": scores.tss_nce(self.own, others, **constants),
            "tss": scores.tss(self.own * self.lengths, others * self.lengths[:, None]),
            "-ppl": self.own,
            "-ifd": self.own - self.empty,
            "ifd_loss": self.own / self.empty,
            "length": self.lengths,
        }


def offered(work: Path, corpus: Path, options: argparse.Namespace) -> pa.Table:
    """SCORED rows of the spoilt corpus with their alternatives, by a run with the bundled scorer."""
    output = work / f"alternatives-{options.source}"
    if not (output / "latest.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        planted, pool = plant(read_rows(corpus, options.longest), options.rows, options.seed)
        if options.source == GENERATED:
            planted = [row for row in planted if has_input(row.input)]
        (work / "rows.jsonl").write_text("".join(json.dumps(row.plain()) + "\n" for row in planted))
        (work / "pool.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in pool))
        (work / "config.yaml").write_text(json.dumps(_settings(work, output, options)))
        command = [sys.executable, "-m", "pipeline", "run", str(work / "config.yaml"), "--quiet"]
        subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    run = Path(open_run.find_run(str(output))[1])
    return pyarrow.dataset.dataset(run / "scored").to_table().sort_by("id")


def _settings(work: Path, output: Path, options: argparse.Namespace) -> dict[str, object]:
    alternatives: dict[str, object] = {"k": max(KS), "source": "retrieved", "pool": str(work / "pool.jsonl")}
    if options.source == GENERATED:
        generator = {"model": options.generator, "count": 4, "max_new_tokens": 128, "batch_size": 8}
        alternatives |= {"k": 4, "source": GENERATED, "generator": generator}
    return {
        "input": [{"path": str(work / "rows.jsonl")}],
        "output": str(output),
        "embedder": {"model": options.embedder},
        "alternatives": alternatives,
        "scorer": {"model": str(demo.MODEL), "template": "plain", "max_length": 512},
        "max_rejected_fraction": 1.0,
    }


def drawn(rows: Sequence[dict[str, object]], count: int, seed: int) -> list[list[str]]:
    """For each row so many instructions of the corpus at random: of rows that have an input as it has, not its own."""
    rng = np.random.default_rng(seed)
    pools: dict[bool, list[str]] = {}
    for some in (True, False):
        texts = {str(row["instruction"]) for row in rows if has_input(str(row["input"])) == some}
        pools[some] = sorted(texts)
    picked = []
    for row in rows:
        own = fold_wording(str(row["instruction"]))
        pool = [text for text in pools[has_input(str(row["input"]))] if fold_wording(text) != own]
        picked.append([pool[place] for place in rng.permutation(len(pool))[:count]])
    return picked


def config_of(model: str, template: str, dtype: str) -> Config:
    """Settings of a scorer, as a run would have them."""
    scorer = {"model": model, "template": template, "dtype": dtype, "max_length": 1024}
    asked = {"input": [{"path": "rows.jsonl"}], "output": "unused", "embedder": {"model": "lexical"}, "scorer": scorer}
    return read_config.validate(asked, "the benchmark")


def score(table: pa.Table, model: str, template: str, dtype: str, options: argparse.Namespace) -> Scored:
    """Likelihoods of all rows under near and random alternatives, or under written ones."""
    config = config_of(model, template, dtype)
    rows = table.to_pylist()
    kinds = np.array([json.loads(row["extra"])["kind"] for row in rows])
    near = [[alternative["instruction"] for alternative in row["alternatives"]] for row in rows]
    picked = drawn(rows, max(KS) // 2, options.seed) if options.source != GENERATED else [[] for _ in rows]
    texts = [list(dict.fromkeys(some + more)) for some, more in zip(near, picked, strict=True)]
    likelihoods = _likelihoods(table, texts, config, dtype).to_pylist()
    means = [{one["instruction"]: one["loglik_mean"] for one in row["alternatives"]} for row in likelihoods]
    first = GENERATED if options.source == GENERATED else NEAR
    others = {first: _matrix(near, means)} | ({RANDOM: _matrix(picked, means)} if options.source != GENERATED else {})
    columns = ("loglik_mean", "loglik_empty_mean", "n_target_tokens")
    return Scored(kinds, *(np.array([row[name] for row in likelihoods], dtype=np.float64) for name in columns), others)


def encoded_rows(table: pa.Table, texts: list[list[str]], checked: preflight.Checked) -> tuple[pa.Table, Encoder]:
    """ENCODED of rows with these alternatives, and the encoder."""
    encoder = cached_encoder(**checked.encoder)
    keys = [content_hash(f"{row['input']}\0{row['output']}") for row in table.select(["input", "output"]).to_pylist()]
    chars = [len(text) for text in table["input"].to_pylist()]
    rows = table.append_column("pair_key", pa.array(keys, pa.binary(16))).append_column("input_chars", pa.array(chars))
    candidates = [Candidates(some, [0.0] * len(some)) for some in texts]
    return encode_rows(rows, candidates, encoder, max(map(len, texts))), encoder


def _likelihoods(table: pa.Table, texts: list[list[str]], config: Config, dtype: str) -> pa.Table:
    from operators.scoring.models import load_model
    from operators.scoring.scorer import TargetScorer

    checked = preflight.check_models(config, preflight.read_template(config.scorer.template))
    encoded, encoder = encoded_rows(table, texts, checked)
    scorer = TargetScorer(load_model(**checked.model(dtype)), BATCH_TOKENS, longest=1024)
    scoring = Scoring(encoded, encoder.context, lambda: scorer)
    began = time.monotonic()
    scoring.score_all()
    seconds = time.monotonic() - began
    tokens = scoring.work.tokens
    print(f"{len(table)} rows, {scoring.work.computed:,} pairs, {tokens:,} tokens, {tokens / seconds:,.0f} a second")
    return scoring.table()


def _matrix(texts: list[list[str]], means: list[dict[str, float]]) -> np.ndarray:
    """Float64 [N, K] of the means of each row's texts, those that did not fit left out, NaN at the end."""
    kept = [[known[text] for text in some if text in known] for some, known in zip(texts, means, strict=True)]
    filled = np.full((len(kept), max(map(len, kept))), np.nan)
    for row, values in enumerate(kept):
        filled[row, : len(values)] = values
    return filled


def kept(path: Path) -> Scored:
    """What was scored, from the file where it was kept."""
    with np.load(path, allow_pickle=False) as data:
        others = {name.removeprefix("others_"): data[name] for name in data.files if name.startswith("others_")}
        return Scored(data["kinds"], data["own"], data["empty"], data["lengths"], others)


def keep(path: Path, made: Scored) -> None:
    """See `kept`."""
    others = {f"others_{name}": values for name, values in made.others.items()}
    np.savez(path, kinds=made.kinds, own=made.own, empty=made.empty, lengths=made.lengths, **others)


def shown(values: np.ndarray, scored: Scored, kind: str, resamples: int) -> str:
    """The AUROC of real rows against those of a kind, with its interval."""
    usable = np.isfinite(values)
    estimate = auroc(
        np.where(usable, values, 0.0), usable & (scored.kinds == REAL), usable & (scored.kinds == kind), resamples
    )
    low, high = estimate.interval
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}]"


def table_of(name: str, scored: Scored, resamples: int) -> str:
    """Every score against every kind at the default K, then tss_pp for each K and origin."""
    first = GENERATED if GENERATED in scored.others else NEAR
    heads = ["score", "alternatives", *SPOILT]
    lines = [f"\n{name}\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for signal, values in scored.signals(first, 8).items():
        cells = [shown(values, scored, kind, resamples) for kind in SPOILT]
        lines.append(f"| `{signal}` | {min(8, scored.others[first].shape[1])} {first} | {' | '.join(cells)} |")
    for origin, others in scored.others.items():
        for k in KS:
            if k <= others.shape[1] and (k, origin) != (8, first):
                values = scored.signals(origin, k)["tss_pp"]
                cells = [shown(values, scored, kind, resamples) for kind in SPOILT]
                lines.append(f"| `tss_pp` | {k} {origin} | {' | '.join(cells)} |")
    lines.append(f"\n{fitness_of(scored, first)}")
    return "\n".join(lines)


def fitness_of(scored: Scored, origin: str) -> str:
    """What the verdict of a run would say of the real rows."""
    real = scored.kinds == REAL
    others = scored.others[origin][real, :8]
    best = (scores.rank(scored.own[real], others) == 0) & np.isfinite(others).any(axis=1)
    chance = (1 / (1 + np.isfinite(others).sum(axis=1))).mean()
    signals = {name: values[real] for name, values in scored.signals(origin, 8).items()}
    like = {name: fitness.spearman(signals["tss_pp"], signals[name]) for name in ("-ppl", "-ifd", "length")}
    low, high = fitness.wilson(int(best.sum()), int(real.sum()))
    correlations = ", ".join(f"{name} {value:.2f}" for name, value in like.items() if value is not None)
    return (
        f"The own instruction explains the output best in {best.mean():.0%} [{low:.0%} {high:.0%}] of {real.sum()} real rows, "
        f"by chance in {chance:.0%}; rank correlation of tss_pp with {correlations}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--scorer", required=True, help="a folder or a name of a causal language model")
    parser.add_argument("--template", nargs="+", default=["alpaca"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--source", choices=["retrieved", GENERATED], default="retrieved")
    parser.add_argument("--generator", help="the model that writes alternatives")
    parser.add_argument("--embedder", default="lexical")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--longest", type=int, default=600, help="characters of a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    table = offered(options.work, options.corpus, options)
    for template in options.template:
        name = f"{Path(options.scorer).name}-{Path(template).stem}-{options.dtype}-{options.source}"
        path = options.work / f"{name}.npz"
        if not path.exists():
            keep(path, score(table, options.scorer, template, options.dtype, options))
        print(table_of(name, kept(path), options.resamples), flush=True)


if __name__ == "__main__":
    main()
