"""Rounds of scoring: tasks encode blocks, the actor pool scores them, and each block's record grows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from ray.data import Dataset

from operators.scoring.draw import Threshold
from pipeline.engine import metrics
from pipeline.engine.job import Job, in_actors, items, mapped, stream
from pipeline.engine.resources import no_more_than
from pipeline.scoring import encode, score_block
from pipeline.scoring.encode import BlockToScore, Round
from pipeline.scoring.notes import Watch
from pipeline.storage.records import Block, BlockPart, ScoredBlock


@dataclass(frozen=True)
class Scorer:
    """What scoring actors need: settings of the encoder and the model, and the scorer's folder of the likelihood store."""

    encoder: dict[str, Any]
    model: dict[str, Any]
    folder: str


def score_blocks(job: Job, blocks: list[Block], scorer: Scorer, round: Round) -> list[Block]:
    """One round of scoring: tasks encode block by block, the actor pool scores; the blocks after it."""
    sizes = no_more_than(job.pools.scorers, len(blocks))
    settings = _settings(job, scorer, round)
    encoded = _encoded(job, blocks, scorer, round)
    dataset = in_actors(encoded, score_block.ScoreBlock, settings, sizes, job.pools.gpus_per_scorer, joined=True)

    after = {block.block: block for block in blocks}
    name = "score" if round.name == "all" else f"score {round.name}"
    watch = Watch(name, job.work, blocks)
    with job.reporter.stage(name, len(blocks), "blocks", slow=_announced(job, blocks, round), look=watch.look) as stage:
        pairs, seconds = 0, 0.0
        for scored in stream("score", ScoredBlock, dataset):
            watch.finish(scored)
            pairs, seconds = pairs + scored.work.computed - scored.work.resumed, seconds + scored.seconds
            stage.advance(note=f"{pairs:,} pairs, {pairs / max(seconds, 1e-9):,.0f} a second and scorer")
            before = after[scored.block]
            more = scored.scored.rows - (before.scored.rows if before.scored else 0)
            metrics.count("tss_rows", more, outcome="scored")
            for reasons in scored.reasons.values():
                metrics.rejected(reasons)
            after[scored.block] = _joined(before, scored)
    return [after[number] for number in sorted(after)]


def _settings(job: Job, scorer: Scorer, round: Round) -> dict[str, Any]:
    """What the scoring actors are made with."""
    config = job.config
    return {
        "work": job.work,
        "kept": {"scorer": scorer.folder, "run": job.run, "part": round.label},
        "every": config.store.write_every,
        "encoder": scorer.encoder,
        "model": scorer.model,
        "batch_tokens": config.scorer.batch_tokens,
        "score": config.score.model_dump(),
        "seed": config.seed,
        "threshold": _threshold(job, round),
        "share": {"a_node": job.pools.scorers_a_node, "gpus": job.pools.gpus_per_scorer},
    }


def _encoded(job: Job, blocks: list[Block], scorer: Scorer, round: Round) -> Dataset:
    kwargs = {
        "work": job.work,
        "index": job.index,
        "encoder": scorer.encoder,
        "paraphrase_max": job.config.alternatives.paraphrase_max,
        "source": job.config.alternatives.source,
        "k": job.config.alternatives.k,
        "round": round,
        "threshold": _threshold(job, round),
    }
    asked = [BlockToScore(block.block, block.placed, block.offers, block.scored, block.recalled) for block in blocks]
    return mapped(items(asked), encode.encode_block, fn_kwargs=kwargs, counts_deaths=True)


def _threshold(job: Job, round: Round) -> Threshold | None:
    """Down to where a round scores rows."""
    if round.threshold is None:
        return None
    return Threshold(round.threshold, job.config.select.drawn_at, job.config.seed)


def _announced(job: Job, blocks: list[Block], round: Round) -> str:
    """What a round has before it, for people."""
    rows = sum(block.placed.rows - sum(block.duplicates.values()) for block in blocks)
    of_round = {
        "pilot": "a sample of ",
        "rest": "those not in the sample of ",
        "again": "those above the threshold of ",
    }
    return f"{of_round.get(round.name, '')}{rows:,} rows, at most {job.config.alternatives.k + 2} pairs each"


def _joined(block: Block, scored: ScoredBlock) -> Block:
    """A block after one more round: the new scored part holds all rows; work and rejections add up."""
    reasons = {source: Counter(counts) for source, counts in block.reasons.items()}
    for source, counts in scored.reasons.items():
        reasons.setdefault(source, Counter()).update(counts)
    return replace(
        block,
        scored=scored.scored,
        sources=scored.sources,
        rejected=[*block.rejected, *scored.rejected],
        reasons={source: dict(counts) for source, counts in reasons.items()},
        work=block.work + scored.work,
    )


def scored_parts(blocks: list[Block]) -> list[BlockPart]:
    """The SCORED parts of blocks; raises ValueError for a block of which nothing is scored."""
    parts = []
    for block in blocks:
        if block.scored is None:
            raise ValueError(f"block {block.block} was not scored")
        parts.append(BlockPart(block.block, block.scored))
    return parts
