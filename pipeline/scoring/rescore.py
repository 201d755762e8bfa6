"""Scores anew from known likelihoods: no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from operators.schema import LIKELIHOODS, SCORED, of_earlier_release, with_origins
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, packed
from pipeline.engine.light_pass import light_pass
from pipeline.storage.parts import read_whole, write_part
from pipeline.storage.records import BlockPart, record_table, records_of


def rescore(job: Job, published: list[BlockPart]) -> list[BlockPart]:
    """SCORED parts from those of a published run, with the scores of this job's settings."""
    with job.reporter.stage("rescore", len(published)) as stage:
        kwargs = {"work": job.work, "score": job.config.score.model_dump(), "seed": job.config.seed}
        rescored = []
        for record in light_pass("rescore", BlockPart, published, rescore_part, divided=_packs, **kwargs):
            rescored.append(record)
            stage.advance()
        return by_block("rescore", rescored)


def _packs(published: Sequence[BlockPart]) -> Dataset:
    """Parts of a published run: those of earlier releases have a block each, and are small."""
    return packed(published, lambda record: record.part.bytes, SHUFFLE_BYTES // TEXT_PER_PARQUET_BYTE)


def rescore_part(batch: pa.Table, *, work: str, score: dict[str, Any], seed: int) -> pa.Table:
    """SCORED parts anew from the likelihoods that the SCORED parts of a published run hold."""
    records = []
    for old in records_of(BlockPart, batch):
        likelihoods = of_earlier_release(with_origins(read_whole(old.part)), LIKELIHOODS)
        scored = add_scores(likelihoods, ScoreSettings(**score), seed)
        records.append(BlockPart(old.block, write_part(f"{work}/scored", scored, SCORED)))
    return record_table(records)
