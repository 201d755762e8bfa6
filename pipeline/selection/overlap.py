"""What selections of different scores at the same budget have in common: their Jaccard index, exact, in a few passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from operators.selection import budget
from pipeline.engine.job import Job
from pipeline.selection import passes as passes
from pipeline.selection.choose import Selection
from pipeline.selection.search import Search, find_ends, slim, sweep
from pipeline.storage.parts import Record

# Compared in every run, as names of the report: a minus means that the lowest come first, as `{ppl: -1}` does.
COMPARED = ("tss_pp", "tss", "ppl", "-ppl", "ifd", "-ifd", "ifd_loss", "-ifd_loss", "length", "random")
# Not known of bounded rows. What a run selects by tss_pp is right all the same, and compared as the run's own score.
_ON_ALL_ALTERNATIVES = {"tss", "tss_pp"}


def overlap(job: Job, scored: list[Record], chosen: Selection, bounded: int) -> dict[str, Any]:
    """Selections by `select.score` and by all of COMPARED, under the run's budget and filter, without caps and quotas.

    Names, rows of each selection, and the Jaccard index of each two: rows in both over rows in either; null where both
    are empty.
    """
    own = chosen.ranking
    rankings = {_label(own.score): own}
    for name in COMPARED:
        if not (bounded and name in _ON_ALL_ALTERNATIVES):
            rankings.setdefault(name, _ranking(own, name))
    parts = slim(scored)
    cuts = {passes.WHOLE: budget.Cut((), chosen.asked)}
    with job.reporter.stage("overlap", None, "passes") as stage:
        searches = find_ends("overlap", parts, [Search(one, cuts) for one in rankings.values()], stage.advance)
        ends = [search.ends() for search in searches]
        found = sweep("overlap", parts, passes.overlap_of_part, searches=ends)
        stage.advance(note=f"{len(rankings)} scores")
    common = np.sum([record["common"] for record in found], axis=0)
    rows = np.diag(common)
    either = rows[:, None] + rows[None, :] - common
    places = range(len(rankings))
    jaccard = [[common[i, j] / either[i, j] if either[i, j] else None for j in places] for i in places]
    return {"scores": list(rankings), "rows": rows.tolist(), "jaccard": jaccard}


def _ranking(own: passes.Ranking, name: str) -> passes.Ranking:
    if name.startswith("-"):  # a weighted sum of one column, which needs no standardising
        return replace(own, score={name[1:]: -1.0}, moments={name[1:]: (0.0, 1.0)})
    return replace(own, score=name, moments={})


def _label(score: str | dict[str, float]) -> str:
    if isinstance(score, str):
        return score
    if len(score) == 1:
        ((name, weight),) = score.items()
        return f"-{name}" if weight < 0 else name
    return " ".join(f"{weight:+g} {name}" for name, weight in score.items())
