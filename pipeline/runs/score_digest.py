"""What the summary shows of the scores: gathered from SCORED parts, joined by the driver, of a size that does not grow."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.job import Job, over_parts, stream
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, record_table, records_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLE = 10_000  # score quantiles come from this many rows: those with the smallest ids
# The rows that tasks send: as many more than SAMPLE as leave it, but for one run in a billion, not short.
_SENT = SAMPLE + 6 * math.isqrt(SAMPLE)
EXTREMES = 5

ScoredId = tuple[str, float]
Extreme = tuple[float, str, str, str]  # tss_pp, id, instruction, output; texts are cut


@dataclass(frozen=True)
class PartDigest:
    """A sample of (id, tss_pp) of a part, its best rows and its worst."""

    sample: list[ScoredId]
    best: list[Extreme]
    worst: list[Extreme]


@dataclass
class Digest:
    """A fixed random sample of (id, tss_pp) of all parts so far, the best rows and the worst."""

    sample: list[ScoredId] = field(default_factory=list)
    best: list[Extreme] = field(default_factory=list)
    worst: list[Extreme] = field(default_factory=list)

    def take(self, part: PartDigest) -> None:
        """Add a part."""
        # Ids are hashes, so the rows with the smallest ones are a random sample, and always the same one.
        self.sample = heapq.nsmallest(SAMPLE, self.sample + part.sample)
        self.best = heapq.nsmallest(EXTREMES, self.best + part.best, key=lambda row: (-row[0], row[1]))
        self.worst = heapq.nsmallest(EXTREMES, self.worst + part.worst, key=lambda row: (row[0], row[1]))

    def shown(self) -> dict[str, Any]:
        """Quantiles of tss_pp, from how many rows, and the extremes as [score, id, instruction, output]."""
        values = [score for _, score in self.sample]
        quantiles = np.quantile(values, QUANTILES).tolist() if values else []
        return {
            "tss_pp": quantiles,
            "quantiles": QUANTILES,
            "from": len(values),
            "best": self.best,
            "worst": self.worst,
        }


def digest_scores(job: Job, parts: list[BlockPart], with_score: int) -> Digest:
    """What the summary shows of the scores in SCORED parts, of whose rows so many have a score."""
    digest = Digest()
    share = min(1.0, _SENT / max(1, with_score))
    with job.reporter.stage("digest", len(parts)) as stage:
        for part in stream("digest", PartDigest, over_parts(parts, digest_part, share=share)):
            digest.take(part)
            stage.advance()
    return digest


def digest_part(batch: pa.Table, *, share: float) -> pa.Table:
    """Records of what the summary shows of SCORED parts, from the `share` of their rows with the smallest ids."""
    digests = []
    for record in records_of(BlockPart, batch):
        table = read_table(record.part.path, ["id", "tss_pp", "instruction", "output"])
        scored = table.filter(pc.is_valid(table["tss_pp"]))
        best, worst = (_extremes(scored, direction) for direction in ("descending", "ascending"))
        digests.append(PartDigest(_sample(scored, share), best, worst))
    return record_table(digests)


def _sample(scored: pa.Table, share: float) -> list[ScoredId]:
    highest = f"{min(int(share * 2**128), 2**128 - 1):032x}"
    drawn = scored.filter(pc.less_equal(scored["id"], highest))
    return list(zip(drawn["id"].to_pylist(), drawn["tss_pp"].to_pylist(), strict=True))


def _extremes(scored: pa.Table, direction: str) -> list[Extreme]:
    rows = scored.sort_by([("tss_pp", direction), ("id", "ascending")]).slice(0, EXTREMES).to_pylist()
    return [
        (row["tss_pp"], row["id"], " ".join(row["instruction"][:300].split()), " ".join(row["output"][:300].split()))
        for row in rows
    ]
