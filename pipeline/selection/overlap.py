"""What selections of different scores at the same budget have in common: their Jaccard index, exact, in a few passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from operators.selection import budget
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.selection.choose import Selection
from pipeline.selection.conversations import over_conversations
from pipeline.selection.passes import CommonRows, overlap_of_parts
from pipeline.selection.ranking import WHOLE, Ranking
from pipeline.selection.search import Search, find_ends
from pipeline.storage.records import BlockPart, Overlap

# Compared in every run, as names of the report: a minus means that the lowest come first, as `{ppl: -1}` does.
COMPARED = ("tss_pp", "tss_nce", "tss", "ppl", "-ppl", "ifd", "-ifd", "ifd_loss", "-ifd_loss", "length", "random")
# Not known of bounded rows. What a run selects by tss_pp is right all the same, and compared as the run's own score.
_ON_ALL_ALTERNATIVES = {"tss", "tss_nce", "tss_pp"}


def overlap(job: Job, scored: list[BlockPart], chosen: Selection, bounded: int) -> Overlap:
    """Selections by `select.score` and by all of COMPARED, under the run's unit, budget and filter, without caps and quotas."""
    ranking = chosen.ranking
    rankings = {_label(ranking): ranking}
    for name in COMPARED:
        if not (bounded and name in _ON_ALL_ALTERNATIVES):
            rankings.setdefault(name, _ranking(ranking, name))
    cuts = {WHOLE: budget.Cut((), chosen.asked)}
    with job.reporter.stage("overlap", None, "passes") as stage:
        compared = list(rankings.values())
        if job.config.select.unit == "conversation":
            compared = over_conversations(job, "overlap", scored, compared)
            stage.advance()
        wanted = [Search(ranking, cuts) for ranking in compared]
        ends = [search.ends() for search in find_ends("overlap", scored, wanted, stage.advance)]
        parts = list(light_pass("overlap", CommonRows, scored, overlap_of_parts, searches=ends))
        stage.advance(note=f"{len(rankings)} scores")
    common = np.sum(parts, axis=0)
    rows = np.diag(common)
    either = rows[:, None] + rows[None, :] - common
    places = range(len(rankings))
    jaccard = [[float(common[i, j] / either[i, j]) if either[i, j] else None for j in places] for i in places]
    return Overlap(list(rankings), rows.tolist(), jaccard)


def _ranking(ranking: Ranking, name: str) -> Ranking:
    if name.startswith("-"):  # a weighted sum of one column, which needs no standardising
        return replace(ranking, score={name[1:]: -1.0}, moments={name[1:]: (0.0, 1.0)}, temperature=0.0)
    return replace(ranking, score=name, moments={}, temperature=0.0)


def _label(ranking: Ranking) -> str:
    if ranking.temperature:
        return f"{_label(replace(ranking, temperature=0.0))} at temperature {ranking.temperature:g}"
    score = ranking.score
    if isinstance(score, str):
        return score
    if len(score) == 1:
        ((name, weight),) = score.items()
        return f"-{name}" if weight < 0 else name
    return " ".join(f"{weight:+g} {name}" for name, weight in score.items())
