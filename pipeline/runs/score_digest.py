"""What the summary shows of the scores: gathered from SCORED parts, joined by the driver, of a size that does not grow."""

from __future__ import annotations

import heapq
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.job import Job, over_parts, stream
from pipeline.storage.parts import Record, read_part, record_table

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLE = 10_000  # score quantiles come from this many rows: those with the smallest ids
EXTREMES = 5


class Digest:
    """A fixed random sample of (id, score), the best rows and the worst."""

    def __init__(self) -> None:
        self.sample: list[list] = []
        self.best: list[list] = []
        self.worst: list[list] = []

    def take(self, record: Record) -> None:
        """Move a scored part's sample and extremes out of its record."""
        # Ids are hashes, so the rows with the smallest ones are a random sample, and always the same one.
        self.sample = heapq.nsmallest(SAMPLE, self.sample + record.pop("sample"))
        self.best = heapq.nsmallest(EXTREMES, self.best + record.pop("best"), key=lambda row: (-row[0], row[1]))
        self.worst = heapq.nsmallest(EXTREMES, self.worst + record.pop("worst"), key=lambda row: (row[0], row[1]))

    def shown(self) -> dict[str, Any]:
        """Quantiles of tss_pp, from how many rows, and the extremes as [score, id, instruction, output]; texts are cut."""
        values = [score for _, score in self.sample]
        quantiles = np.quantile(values, QUANTILES).tolist() if values else []
        return {
            "tss_pp": quantiles,
            "quantiles": QUANTILES,
            "from": len(values),
            "best": self.best,
            "worst": self.worst,
        }


def digest_scores(job: Job, parts: list[Record]) -> Digest:
    """What the summary shows of the scores in SCORED parts."""
    found = Digest()
    with job.reporter.stage("digest", len(parts)) as stage:
        for record in stream("digest", over_parts(parts, digest_part)):
            found.take(record)
            stage.advance()
    return found


def digest_part(batch: pa.Table) -> pa.Table:
    """Records of what the summary shows of SCORED parts: a sample of scores by id, the best rows and the worst."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        table = read_part(part, ["id", "tss_pp", "instruction", "output"])
        known = table.filter(pc.is_valid(table["tss_pp"]))
        best, worst = (_extremes(known, direction) for direction in ("descending", "ascending"))
        records.append({"sample": _sample(known), "best": best, "worst": worst})
    return record_table(records)


def _sample(known: pa.Table) -> list[list]:
    smallest = known.select(["id", "tss_pp"]).sort_by("id").slice(0, SAMPLE)
    return [list(row) for row in zip(*(column.to_pylist() for column in smallest.columns), strict=True)]


def _extremes(known: pa.Table, direction: str) -> list[list]:
    rows = known.sort_by([("tss_pp", direction), ("id", "ascending")]).slice(0, EXTREMES).to_pylist()
    return [
        [row["tss_pp"], row["id"], " ".join(row["instruction"][:300].split()), " ".join(row["output"][:300].split())]
        for row in rows
    ]
