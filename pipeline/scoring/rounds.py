"""Rounds of scoring: tasks encode blocks, the actor pool scores them, and each block's record grows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.engine import metrics
from pipeline.engine.job import Job, in_actors, items, mapped, stream
from pipeline.engine.resources import no_more_than
from pipeline.retrieval.index import pool_settings
from pipeline.scoring import encode, score_block
from pipeline.scoring.encode import Round
from pipeline.storage import computed, urls
from pipeline.storage.parts import Record


@dataclass(frozen=True)
class Scorer:
    """What scoring actors need: settings of the encoder and the model, and the scorer's folder of the likelihood store."""

    encoder: dict[str, Any]
    model: dict[str, Any]
    folder: str


def score_blocks(job: Job, blocks: list[Record], scorer: Scorer, round: Round) -> list[Record]:
    """One round of scoring: tasks encode block by block, the actor pool scores; the records of the blocks after it.

    A block's record holds what was placed there and what all rounds so far have made of it.
    """
    config = job.config
    settings = {
        "work": job.work,
        "kept": {"scorer": scorer.folder, "run": job.run, "part": round.label},
        "every": config.store.write_every,
        "encoder": scorer.encoder,
        "model": scorer.model,
        "batch_tokens": config.scorer.batch_tokens,
        "score": config.score.model_dump(),
        "seed": config.seed,
        "threshold": round.threshold,
        "share": {"a_node": job.pools.scorers_a_node, "gpus": job.pools.gpus_per_scorer},
    }
    items_ = [{name: block[name] for name in ("block", "placed", "scored", "known")} for block in blocks]
    encoded = mapped(
        items(items_),
        encode.encode_block,
        fn_kwargs={
            "work": job.work,
            "index": job.index,
            "encoder": scorer.encoder,
            "pool": pool_settings(job),
            "k": config.alternatives.k,
            "round": asdict(round),
        },
    )
    sizes = no_more_than(job.pools.scorers, len(blocks))
    dataset = in_actors(encoded, score_block.ScoreBlock, settings, sizes, job.pools.gpus_per_scorer)
    after = {block["block"]: block for block in blocks}
    name = "score" if round.name == "all" else f"score {round.name}"
    rows = sum(block["placed"]["rows"] - sum(block["duplicates"].values()) for block in blocks)
    of_round = {
        "pilot": "a sample of ",
        "rest": "those not in the sample of ",
        "again": "those above the threshold of ",
    }
    slow = f"{of_round.get(round.name, '')}{rows:,} rows, at most {config.alternatives.k + 2} pairs each"

    def stored() -> str:
        return (
            f"{computed.pairs_of(path for path, _ in computed.parts(urls.join(scorer.folder, job.run))):,} pairs stored"
        )

    with job.reporter.stage(name, len(blocks), "blocks", slow=slow, look=stored) as stage:
        pairs, seconds = 0, 0.0
        for record in stream("score", dataset):
            work = record["work"]
            pairs, seconds = pairs + work["computed"] - work["resumed"], seconds + record["seconds"]
            stage.advance(note=f"{pairs:,} pairs, {pairs / max(seconds, 1e-9):,.0f} a second and scorer")
            more = record["scored"]["rows"] - (after[record["block"]]["scored"] or {"rows": 0})["rows"]
            metrics.count("tss_rows", more, outcome="scored")
            for reasons in record["reasons"].values():
                metrics.rejected(reasons)
            after[record["block"]] = _joined(after[record["block"]], record)
    return [after[number] for number in sorted(after)]


def fresh_blocks(placed: list[Record]) -> list[Record]:
    """Records of blocks of which nothing is scored yet."""
    return [
        {
            "block": part["block"],
            "placed": {"path": part["path"], "rows": part["rows"]},
            "known": part.get("known"),
            "scored": None,
            "duplicates": part["duplicates"],
            "sources": {},
            "rejected": [],
            "reasons": {},
            "work": {},
        }
        for part in placed
    ]


def _joined(block: Record, new: Record) -> Record:
    """A block's record after one more round: the new scored part holds all rows; work and rejections add up."""
    reasons = {source: Counter(found) for source, found in block["reasons"].items()}
    for source, found in new["reasons"].items():
        reasons.setdefault(source, Counter()).update(found)
    return {
        **block,
        "scored": new["scored"],
        "sources": new["sources"],
        "rejected": block["rejected"] + new["rejected"],
        "reasons": reasons,
        "work": dict(Counter(block["work"]) + Counter(new["work"])),
    }


def scored_of(blocks: list[Record]) -> list[Record]:
    """The SCORED parts of block records."""
    return [{**block["scored"], "block": block["block"]} for block in blocks]
