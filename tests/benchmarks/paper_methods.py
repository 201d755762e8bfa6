"""What paper.py compares: methods as keys of `tss select`, and the rows that the product's own selection gives for each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from downstream import PLAIN
from paper_corpora import Corpus, digest_of
from paper_training import Row

from pipeline import flow, read_config
from pipeline.config_select import Select
from pipeline.engine.progress import Reporter
from pipeline.runs import open_run

EXAMPLES, TOKENS = "examples", "tokens"
BUDGETS = {EXAMPLES: "example_fraction", TOKENS: "token_fraction"}
_TEXTS = ["instruction", "input", "output"]


@dataclass(frozen=True)
class Method:
    """Keys that a selection sets. `weighs`: nothing, so that each selected row counts alike; "all" rows, whose losses are
    multiplied by their weights; or the "selected" ones. `capped`: at most one and a half even shares from a cluster."""

    keys: dict[str, Any] = field(default_factory=dict)
    weighs: str = ""
    capped: bool = False

    @property
    def drawn(self) -> bool:
        """Whether the rows that are taken depend on the seed."""
        select = {key.partition(".")[2]: value for key, value in self.keys.items() if key.startswith("select.")}
        return self.weighs != "all" and bool(Select.model_construct(**select).drawn_at)


TSS = {**PLAIN, "select.score": "tss"}
# The paper marks weightings (E) and leaves open lambda, the clip, and what a budget means for them. Here lambda is 1 for
# tss_pp, and 0.1 for tss, whose values are tenfold; all rows stay, for as many steps as a selection of the budget gets.
METHODS = {
    "random": Method({"select.temperature": "infinite"}),
    "ppl, lowest": Method({**PLAIN, "select.score": {"ppl": -1.0}}),
    "ppl, highest": Method({**PLAIN, "select.score": "ppl"}),
    "ifd": Method({**PLAIN, "select.score": "ifd", "select.where": "ifd < 1"}),
    "tss": Method(TSS),
    "tss_pp": Method(PLAIN),
    "default": Method(),  # a draw by tss_pp at temperature 0.25
    "tss_pp, capped": Method(PLAIN, capped=True),
    "default, capped": Method({}, capped=True),
    "tss (E)": Method({**TSS, "score.weight_scale": 0.1}, weighs="all"),
    "tss_pp (E)": Method(PLAIN, weighs="all"),
    "tss_pp (E) of its top": Method(PLAIN, weighs="selected"),
}
ALL_ROWS = "random"  # at a budget of 100%, where all selections are the same, this one stands for them


def runs_at(method: Method, name: str, fraction: float) -> bool:
    """Whether a method differs from the others at a budget."""
    return fraction < 1 or name == ALL_ROWS or method.weighs == "all"


def scored(corpus: Corpus, scorer: dict[str, Any], overrides: list[str], work: Path) -> Path:
    """A published run of `tss run` over the training rows, made unless `work` holds it; one that was interrupted goes on."""
    asked = {"max_rejected_fraction": 0.5, "keep_runs": 1, **scorer, "input": str(corpus.train), "output": "runs"}
    settings = read_config.override(asked, overrides)
    output = work / f"{corpus.name}-{digest_of(json.dumps(settings, sort_keys=True))[:12]}"
    run = open_run.latest_run(str(output)) if output.exists() else None
    if run is None:
        config = read_config.validate({**settings, "output": str(output)}, "paper")
        summary = flow.run(config, Reporter())
        run = summary.run
    manifest = open_run.read_manifest(run)
    print(f"scored: {manifest.counts.scored:,} rows, rejected {manifest.counts.rejected}, in {run}", flush=True)
    return Path(run)


def chosen(run: Path, method: Method, unit: str, fraction: float, seed: int, work: Path) -> Path:
    """A file with the rows that a method takes of a scored run within a budget: texts and weights, in selected order."""
    asked = json.dumps([str(run), asdict(method), unit, fraction, seed if method.drawn else 0], sort_keys=True)
    file = work / f"{digest_of(asked)}.parquet"
    if not file.exists():
        manifest = open_run.read_manifest(str(run))
        select: dict[str, Any] = {"budget": {BUDGETS[unit]: fraction}}
        settings = {**manifest.config, "seed": seed, "output": str(work / "output"), "keep_runs": 1}
        settings["score"], settings["select"] = dict(manifest.config["score"]), select
        for key, value in method.keys.items():
            section, _, inner = key.partition(".")
            settings[section][inner] = value
        if method.capped:
            clusters = len(pq.read_table(run / "scored", columns=["cluster"])["cluster"].unique())
            select["max_per"] = {"cluster": int(1.5 * fraction * manifest.counts.scored / clusters) + 1}
        summary = flow.select(read_config.validate(settings, "paper"), str(run), Reporter(quiet=True))
        kind = "scored" if method.weighs == "all" else "selected"
        table = pq.read_table(Path(summary.run) / kind, columns=[*_TEXTS, "weight"])
        _write(table.filter(table["weight"].is_valid()) if method.weighs else table, method, file)
    return file


def _write(table: pa.Table, method: Method, file: Path) -> None:
    """Rows with the weights of their losses, 1 on average, whole or not at all."""
    weights = table["weight"].to_numpy() if method.weighs else np.ones(len(table))
    draft = file.with_suffix(".draft")
    pq.write_table(table.select(_TEXTS).append_column("weight", pa.array(weights / weights.mean())), draft)
    draft.rename(file)


def scored_rows(run: Path) -> list[Row]:
    """All rows of a scored run, each of weight 1."""
    table = pq.read_table(run / "scored", columns=_TEXTS)
    return [(*texts, 1.0) for texts in zip(*(table[name].to_pylist() for name in _TEXTS), strict=True)]


def rows_of(file: Path) -> list[Row]:
    """The rows of a selection, as a training takes them."""
    table = pq.read_table(file)
    return list(zip(*(table[name].to_pylist() for name in [*_TEXTS, "weight"]), strict=True))
