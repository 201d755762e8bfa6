"""What the summary shows of the scores: gathered from SCORED parts, joined by the driver, of a size that does not grow."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.row_ids import in_share, share_for
from pipeline.engine.job import Job, once
from pipeline.engine.light_pass import light_pass
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, record_table, records_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SAMPLE = 10_000  # score quantiles come from this many rows: those with the smallest ids
EXTREMES = 5

ScoredId = tuple[str, float]
Place = tuple[float, str, str, int]  # tss_pp, id, the path of the row's part, the row there
Extreme = tuple[float, str, str, str]  # tss_pp, id, instruction, output; texts are cut


@dataclass(frozen=True)
class Digest:
    """A fixed random sample of (id, tss_pp) of rows, the best of them and the worst."""

    sample: list[ScoredId]
    best: list[Place]
    worst: list[Place]


def digest_scores(job: Job, parts: list[BlockPart], with_score: int) -> dict[str, Any]:
    """What the summary shows of the scores in SCORED parts, of whose rows so many have a score: quantiles of tss_pp, from how
    many rows, and the extremes as [score, id, instruction, output]."""
    share = share_for(SAMPLE, with_score)
    with job.reporter.stage("digest", 2, "passes") as stage:
        digest = joined(light_pass("digest", Digest, parts, digest_parts, share=share))
        stage.advance()
        # Texts are read for the few rows that are shown, in the few parts that hold them.
        best, worst = (once("digest", texts_of, rows) if rows else [] for rows in (digest.best, digest.worst))
        stage.advance()
    values = [score for _, score in digest.sample]
    quantiles = np.quantile(values, QUANTILES).tolist() if values else []
    return {"tss_pp": quantiles, "quantiles": QUANTILES, "from": len(values), "best": best, "worst": worst}


def joined(digests: Iterable[Digest]) -> Digest:
    """The digest of the rows of all of these."""
    every = list(digests)
    return Digest(
        # Ids are hashes, so the rows with the smallest ones are a random sample, and always the same one.
        heapq.nsmallest(SAMPLE, (row for digest in every for row in digest.sample)),
        heapq.nsmallest(EXTREMES, (row for digest in every for row in digest.best), key=lambda row: (-row[0], row[1])),
        heapq.nsmallest(EXTREMES, (row for digest in every for row in digest.worst), key=lambda row: row[:2]),
    )


def digest_parts(batch: pa.Table, *, share: float) -> pa.Table:
    """The digest of SCORED parts, from the `share` of their rows with the smallest ids."""
    return record_table([joined(_digest(record.part.path, share) for record in records_of(BlockPart, batch))])


def _digest(path: str, share: float) -> Digest:
    table = read_table(path, ["id", "tss_pp"])
    scored = table.append_column("row", pa.array(np.arange(len(table)))).filter(pc.is_valid(table["tss_pp"]))
    best, worst = (_extremes(scored, path, direction) for direction in ("descending", "ascending"))
    return Digest(_sample(scored, share), best, worst)


def _sample(scored: pa.Table, share: float) -> list[ScoredId]:
    drawn = scored.filter(in_share(scored["id"], share))
    return list(zip(drawn["id"].to_pylist(), drawn["tss_pp"].to_pylist(), strict=True))


def _extremes(scored: pa.Table, path: str, direction: str) -> list[Place]:
    keys = [("tss_pp", direction), ("id", "ascending")]
    rows = scored.take(pc.select_k_unstable(scored, EXTREMES, keys)).to_pylist()  # no two rows have one id
    return [(row["tss_pp"], row["id"], path, row["row"]) for row in rows]


def texts_of(rows: list[Place]) -> list[Extreme]:
    """The same rows with the beginnings of their texts."""
    shown: list[Extreme] = []
    for score, id, path, place in rows:
        (row,) = read_table(path, ["instruction", "output"]).slice(place, 1).to_pylist()
        instruction, output = (" ".join(row[name][:300].split()) for name in ("instruction", "output"))
        shown.append((score, id, instruction, output))
    return shown
