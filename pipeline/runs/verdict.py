"""A verdict on the scorer and the selection of a run: whether instructions are told apart, whether the ranking is that of
another score, and how much of it depends on which alternatives there were. In figures; `verdict_words` has the sentences.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.row_ids import in_share, share_for
from operators.scoring import fitness
from operators.scoring.scores import ScoreSettings
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.runs import verdict_words
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, Overlap, Verdict, record_table, records_of

SAMPLE = 4096  # rows of which correlations are taken: those with the smallest ids, which are hashes
_LIKELIHOODS = ("n_alternatives", "loglik_mean", "loglik_empty_mean", "alternatives")
_SCORES = ("rank", "tss_pp", "tss_nce", "tss", "ifd_loss", "length")
_COVERS = 0.9  # of all rows: what takes more of them has much in common with anything
_OTHERS = ("-ppl", "-ifd", "-ifd_loss", "length")
# Of the names of `overlap`, those of other scores.
_ALIKE = ("-ppl", "ppl", "-ifd", "ifd", "-ifd_loss", "ifd_loss", "length")


@dataclass(frozen=True)
class Tally:
    """What tasks say of SCORED parts: rows with a rank that are explained best, rows with a rank by their number of
    alternatives, and rows of the sample by id."""

    best: int
    offered: dict[int, int]
    sample: list[tuple[str, list[float | None]]]

    @property
    def rows(self) -> int:
        """Rows with a rank."""
        return sum(self.offered.values())

    @property
    def by_chance(self) -> float:
        """How many rows would be explained best by chance."""
        return math.fsum(rows / (1 + number) for number, rows in sorted(self.offered.items()))


def judge(
    job: Job, parts: list[BlockPart], rows: int, below: float = 1.0, overlap: Overlap | None = None, share: float = 0.0
) -> Verdict:
    """The verdict on SCORED parts of so many rows in all. Where a selection was bounded, only ids in the share `below` of all
    are a fair sample. `share` of the rows is selected, with an `overlap` with other selections."""
    settings = job.config.score.model_dump()
    fraction = min(below, share_for(SAMPLE, rows))
    with job.reporter.stage("verdict", len(parts)) as stage:
        asked: dict[str, Any] = {"settings": settings, "below": below, "fraction": fraction}
        tally = joined(light_pass("verdict", Tally, parts, tally_parts, **asked))
        stage.advance(len(parts))
    low, high = fitness.wilson(tally.best, tally.rows)
    verdict = Verdict(
        rows=tally.rows,
        best=tally.best / max(1, tally.rows),
        low=low,
        high=high,
        chance=tally.by_chance / max(1, tally.rows),
        **(_alike(job, overlap, rows) if _over_alternatives(job) else {}),
    )
    sample = np.array([values for _, values in tally.sample], dtype=np.float64).reshape(-1, len(fitness.SAMPLED))
    return _with_sample(verdict, sample, job, share)


def _alike(job: Job, overlap: Overlap | None, rows: int) -> dict[str, Any]:
    """The score that the run selects by, and the other one that selects most alike, where the budget leaves enough out."""
    score = job.config.select.score
    if overlap is None or not rows or overlap.rows[0] > _COVERS * rows:
        return {"score": score}
    # A draw is compared as the ranking that it draws from, where that is known.
    own = overlap.scores.index(score) if score in overlap.scores else 0
    shared = [(overlap.jaccard[own][place] or 0.0, name) for place, name in enumerate(overlap.scores) if name in _ALIKE]
    if not shared:
        return {"score": score}
    most, name = max(shared)
    part = overlap.rows[own] / rows
    return {"score": score, "alike": name, "shared": most, "shared_by_chance": part / (2 - part)}


def _over_alternatives(job: Job) -> bool:
    return job.config.select.score in ("tss_pp", "tss_nce", "tss")


def _with_sample(verdict: Verdict, sample: np.ndarray, job: Job, share: float) -> Verdict:
    if len(sample) < verdict_words.FEW:
        return verdict
    columns = dict(zip(fitness.SAMPLED, sample.T, strict=True))
    likeness: dict[str, float | None] = {}
    kept, temperature = None, job.config.select.drawn_at
    if verdict.score is not None:
        score = columns[verdict.score]
        likeness = {name: fitness.spearman(score, columns[name]) for name in _OTHERS}
        if 0 < share < 1 and 0 < temperature < math.inf:
            kept = fitness.kept_by_another_draw(score, share, temperature)
    return replace(
        verdict,
        sampled=len(sample),
        spread_nce=float(columns["tss_nce"].std()),
        spread_quality=float(job.config.score.alpha * columns["-ppl"].std()),
        correlations={name: value for name, value in likeness.items() if value is not None},
        halves=fitness.full_reliability(fitness.spearman(columns["odd"], columns["even"])),
        kept=kept,
    )


def joined(tallies: Iterable[Tally]) -> Tally:
    """The tally of the rows of all of these."""
    every = list(tallies)
    return Tally(
        sum(tally.best for tally in every),
        dict(sum((Counter(tally.offered) for tally in every), Counter[int]())),
        heapq.nsmallest(SAMPLE, (row for tally in every for row in tally.sample)),
    )


def tally_parts(batch: pa.Table, *, settings: dict[str, Any], below: float, fraction: float) -> pa.Table:
    """The tally of SCORED parts: of the ids in the share `below`, and rows of those in the `fraction` as a sample."""
    asked = ScoreSettings(**settings)
    return record_table(
        [joined(_tally(record.part.path, asked, below, fraction) for record in records_of(BlockPart, batch))]
    )


def _tally(path: str, settings: ScoreSettings, below: float, fraction: float) -> Tally:
    table = read_table(path, ["id", *_LIKELIHOODS, *_SCORES])
    table = table.filter(in_share(table["id"], below))
    best, offered = fitness.ranks_first(table)
    drawn = table.filter(pc.and_(pc.is_valid(table["tss_pp"]), in_share(table["id"], fraction)))
    values = fitness.sample_of(drawn, settings)
    listed = [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]
    return Tally(best, offered, list(zip(drawn["id"].to_pylist(), listed, strict=True)))
