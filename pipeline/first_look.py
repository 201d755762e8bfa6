"""Scoring, with a look at a sample of the rows before the bulk of them: an unfit scorer is seen before it has cost much."""

from __future__ import annotations

from pipeline.engine.job import Job
from pipeline.runs import verdict_words
from pipeline.runs.verdict import judge
from pipeline.scoring.encode import Round
from pipeline.scoring.rounds import Scorer, score_blocks, scored_parts
from pipeline.selection.bounded import score_bounded
from pipeline.storage.records import Block, BlockPart

# Rows of the sample, and how many times as many a corpus has at least that is worth a round of its own.
SAMPLE_ROWS, TIMES = 256, 10


def score_rows(job: Job, blocks: list[Block], rows: int, scorer: Scorer) -> list[Block]:
    """Blocks with the likelihoods and scores of their rows, of which there are so many: of all, or of those that a bounded
    selection needs. Raises RunFailed where strict was asked and the sample says that the scorer is not fit."""

    def look(parts: list[BlockPart]) -> None:
        verdict = judge(job, parts, sum(part.part.rows for part in parts))
        for line in verdict_words.lines(verdict):
            job.reporter.say(line)
        if job.config.strict:
            verdict_words.require_fit(verdict)

    if job.config.select.mode == "bounded":
        return score_bounded(job, blocks, rows, scorer, look)
    if rows < SAMPLE_ROWS * TIMES:
        return score_blocks(job, blocks, scorer, Round())
    share = SAMPLE_ROWS / rows
    blocks = score_blocks(job, blocks, scorer, Round("pilot", share))
    look(scored_parts(blocks))
    return score_blocks(job, blocks, scorer, Round("rest", share))
