"""SCORED parts: what a block's record says of one, and one made anew from known likelihoods."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import LIKELIHOODS, SCORED
from operators.tss import ScoreSettings, add_scores
from pipeline.parts import read_whole, record_table, write_part


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
