"""Bounded selection: rows that cannot be selected are scored no further, and the selection is that of full scoring.

An upper bound of tss_pp follows from the alternatives scored so far (`operators/scoring/scores.py`). Order all rows by their
score, or by their bound where there is no score yet, and take the prefix that fits the budget. If every row of it, and the
first that does not fit, has its score, then no bounded row can stand among them and the prefix is the selection. Rounds, each
a stage over blocks, lead there: a sample scored in full says where the threshold will be, all other rows are scored until they
fall below that, and rows that stand above the threshold without a score are scored further, until there are none.
"""

from __future__ import annotations

from collections.abc import Callable

from operators.selection.budget import largest_budget
from pipeline.engine.job import Job
from pipeline.scoring.encode import Round
from pipeline.scoring.rounds import Scorer, score_blocks, scored_parts
from pipeline.selection import choose
from pipeline.storage.records import Block, BlockPart

PILOT_SHARE = 1 / 16  # of the rows, but not more than so many
PILOT_ROWS = 4096
# The threshold is looked for below the budget's end, which a pilot knows only as well as the rows before it are many: a row
# scored too far costs some passes, one not scored far enough a whole round.
_DEVIATIONS = 2.0
_SLACK = 1.15


def pilot_share(rows: int) -> float:
    """The share of all ids whose rows a pilot takes, of so many rows."""
    return min(PILOT_SHARE, PILOT_ROWS / max(1, rows))


def score_bounded(
    job: Job, blocks: list[Block], rows: int, scorer: Scorer, look: Callable[[list[BlockPart]], None]
) -> list[Block]:
    """Blocks scored as far as the budget's selection needs; `rows` as admitted. `look` is shown the parts of the sample."""
    share = pilot_share(rows)
    blocks = score_blocks(job, blocks, scorer, Round("pilot", share))
    look(scored_parts(blocks))
    threshold = _pilot_threshold(job, scored_parts(blocks), share)
    blocks = score_blocks(job, blocks, scorer, Round("rest", share, threshold))
    cost, _ = choose.totals(job, scored_parts(blocks))
    asked, slack, number = largest_budget(cost, job.config.select.budget), _SLACK, 0
    while (reached := choose.reach(job, scored_parts(blocks), asked, int(asked * slack))).without_score:
        left = [block for block in blocks if reached.open[block.block]]
        again = score_blocks(job, left, scorer, Round("again", share, reached.threshold, number))
        blocks = list({block.block: block for block in [*blocks, *again]}.values())
        slack, number = slack * 2, number + 1
    return blocks


def _pilot_threshold(job: Job, scored: list[BlockPart], share: float) -> float:
    """Where the whole corpus' budget probably ends, or a little below, from a sample of its rows scored in full."""
    cost, rows = choose.totals(job, scored)
    asked = share * largest_budget(int(cost / share), job.config.select.budget)
    # About so many rows of the sample stand before the end, and the deviation of such a number is its root.
    before = rows * asked / max(1, cost)
    slack = 1 + _DEVIATIONS / max(1.0, before) ** 0.5
    return choose.reach(job, scored, int(asked), int(asked * slack)).threshold
