"""Bounded selection: rows that cannot be selected are scored no further, and the selection is that of full scoring.

An upper bound of tss_pp follows from the alternatives scored so far (`operators/tss.py`). Order all rows by their score, or by
their bound where there is no score yet, and take the prefix that fits the budget. If every row of it, and the first that does
not fit, has its score, then no bounded row can stand among them and the prefix is the selection. Rounds, each a stage over all
blocks, lead there: a sample scored in full says where the threshold will be, all other rows are scored until they fall below
that, and rows that stand above the threshold without a score are scored further, until there are none.
"""

from __future__ import annotations

from typing import Any

from pipeline import selection, stages
from pipeline.encode import Round
from pipeline.job import Job
from pipeline.parts import Record

PILOT_SHARE = 1 / 16  # of the rows, but not more than so many
PILOT_ROWS = 4096
# The threshold is looked for below the budget's end: a row scored too far costs passes, one not scored far enough a round.
_SLACK = 1.15


def score_bounded(
    job: Job, blocks: list[Record], rows: int, encoder: dict[str, Any], model: dict[str, Any]
) -> list[Record]:
    """Records of blocks (`stages.fresh_blocks`) scored as far as the budget's selection needs; `rows` as admitted."""
    share = min(PILOT_SHARE, PILOT_ROWS / max(1, rows))
    blocks = stages.score_blocks(job, blocks, encoder, model, Round("pilot", share))
    threshold = selection.reach(job, stages.scored_of(blocks), share * _SLACK, share).threshold
    blocks = stages.score_blocks(job, blocks, encoder, model, Round("rest", share, threshold))
    slack = _SLACK
    while selection.reach(job, stages.scored_of(blocks)).without_score:
        threshold = selection.reach(job, stages.scored_of(blocks), slack).threshold
        blocks = stages.score_blocks(job, blocks, encoder, model, Round("again", share, threshold))
        slack *= 2
    return blocks
