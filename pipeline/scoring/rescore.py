"""SCORED parts: what a block's record says of one, and one made anew from known likelihoods."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import LIKELIHOODS, SCORED
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.engine.job import Job, by_block, execute, items, mapped
from pipeline.storage.parts import Record, read_whole, record_table, write_part


def rescore(job: Job, parts: list[Record]) -> list[Record]:
    """Scores anew from known likelihoods; block records with `scored` and `sources`."""
    with job.reporter.stage("rescore", len(parts)) as stage:
        kwargs = {"work": job.work, "score": job.config.score.model_dump(), "seed": job.config.seed}
        dataset = mapped(items(parts), rescore_part, fn_kwargs=kwargs)
        return by_block("rescore", execute("rescore", dataset, lambda record: stage.advance()))


def rescore_part(batch: pa.Table, *, work: str, score: dict[str, Any], seed: int) -> pa.Table:
    """SCORED parts anew from the likelihoods that the SCORED parts of a published run hold: no model is needed."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        scored = add_scores(read_whole(part).select(LIKELIHOODS.names), ScoreSettings(**score), seed)
        records.append(
            {
                "block": part["block"],
                "scored": write_part(f"{work}/scored", scored, SCORED),
                "sources": sources_of(scored),
            }
        )
    return record_table(records)


def sources_of(scored: pa.Table) -> dict[str, dict[str, int]]:
    """Per source: rows of a SCORED part, those without a score, and those of them that a bounded selection left."""
    unscored = _count(scored.filter(pc.is_null(scored["tss_pp"]))["source"])
    bounded = _count(scored.filter(pc.is_valid(scored["tss_pp_bound"]))["source"])
    return {
        source: {"scored": number, "unscored": unscored.get(source, 0), "bounded": bounded.get(source, 0)}
        for source, number in _count(scored["source"]).items()
    }


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
