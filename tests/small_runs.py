"""Small runs for tests: a corpus, a configuration, a run and what it wrote."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import flow, read_config
from pipeline.engine.job import AS_USUAL
from pipeline.engine.progress import Reporter
from pipeline.runs import open_run
from pipeline.runs.manifest import to_plain

VERBS = ["Sort", "Count", "Reverse", "Double", "Translate", "Copy", "Shorten"]
THINGS = ["the words", "the numbers", "the list", "the first line"]


def corpus(count=60, seed=0):
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        row = {
            "instruction": f"{rng.choice(VERBS)} {rng.choice(THINGS)}.",
            "input": rng.choice(["", "a b c", "3 1 2", "x y"]),
            "output": f"{rng.choice(['yes', 'no', 'c b a', '6'])} {i % 9}",
            "stars": i % 5,
        }
        if i % 3 == 0:
            row["task"] = f"t{i % 4}"
        rows.append(row)
    return rows


def settings(output, inputs, model, **more):
    return read_config.validate(
        read_config.override(
            {
                "input": [{"path": str(path)} for path in inputs],
                "output": str(output),
                "embedder": {"model": "lexical", "batch_size": 4},
                "alternatives": {"k": 3},
                "scorer": {"model": str(model), "template": "plain", "max_length": 200},
                "select": {"budget": {"token_fraction": 0.3}, "temperature": 0},
                "max_rejected_fraction": 1.0,
            },
            [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in more.items()],
        ),
        "test",
    )


def run(*arguments, fresh=False, **more):
    return Path(flow.run(settings(*arguments, **more), Reporter(quiet=True), fresh=fresh).run)


def refresh(*arguments, fresh=False, **more):
    return Path(flow.refresh(settings(*arguments, **more), Reporter(quiet=True), fresh=fresh).run)


def table(folder: Path, kind: str) -> list[dict]:
    return [row for path in sorted((folder / kind).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def reselect(done, publishing=AS_USUAL, **more):
    known = open_run.read_manifest(str(done))
    chosen = read_config.override(
        known.config, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in more.items()]
    )
    return Path(
        flow.select(read_config.validate(chosen, "test"), str(done), Reporter(quiet=True), publishing=publishing).run
    )


def manifest_of(folder: Path) -> dict:
    return to_plain(open_run.read_manifest(str(folder)))
