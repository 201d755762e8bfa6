"""Scores anew from known likelihoods: no model is needed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from operators.schema import LIKELIHOODS, SCORED, of_earlier_release, with_origins
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, execute, mapped, packed
from pipeline.storage.parts import read_whole, write_part
from pipeline.storage.records import BlockPart, record_table, records_of


def rescore(job: Job, published: list[BlockPart]) -> list[BlockPart]:
    """SCORED parts from those of a published run, with the scores of this job's settings."""
    with job.reporter.stage("rescore", len(published)) as stage:
        kwargs = {"work": job.work, "score": job.config.score.model_dump(), "seed": job.config.seed}
        # Runs of earlier releases have a part for each block, and these are small.
        room = SHUFFLE_BYTES // TEXT_PER_PARQUET_BYTE
        dataset = mapped(packed(published, lambda record: record.part.bytes, room), rescore_part, fn_kwargs=kwargs)
        return by_block("rescore", execute("rescore", BlockPart, dataset, lambda record: stage.advance()))


def rescore_part(batch: pa.Table, *, work: str, score: dict[str, Any], seed: int) -> pa.Table:
    """SCORED parts anew from the likelihoods that the SCORED parts of a published run hold."""
    records = []
    for old in records_of(BlockPart, batch):
        likelihoods = of_earlier_release(with_origins(read_whole(old.part)), LIKELIHOODS)
        scored = add_scores(likelihoods, ScoreSettings(**score), seed)
        records.append(BlockPart(old.block, write_part(f"{work}/scored", scored, SCORED)))
    return record_table(records)
