"""The driver's side of scoring: what is stored of each block, rounds of scoring over blocks, scores anew from likelihoods."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import encode, metrics, recall, score, scored, storage, store
from pipeline.encode import Round
from pipeline.job import Job, by_block, execute, in_actors, items, mapped, over_parts, stream
from pipeline.parts import Record
from pipeline.resources import no_more_than
from pipeline.stages import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, pool_settings


@dataclass(frozen=True)
class Scorer:
    """What scoring actors need: settings of the encoder and the model, and the scorer's folder of the likelihood store."""

    encoder: dict[str, Any]
    model: dict[str, Any]
    folder: str


def recall_pairs(job: Job, placed: list[Record], scorer: str) -> list[Record]:
    """The same records with what earlier runs have stored of each block in `known`."""
    stored = [one for one in store.by_run(scorer) if not job.fresh and one[0] != job.run]
    if not stored:
        return placed
    meeting_bytes = sum(size for _, _, size in stored) * TEXT_PER_PARQUET_BYTE
    meeting_bytes += sum(part["rows"] for part in placed) * recall.BYTES_ASKED
    shuffles = max(1, -(-meeting_bytes // SHUFFLE_BYTES))
    meeting = [{"path": part["path"], "block": part["block"]} for part in placed]
    meeting += [{"path": path, "run": run} for run, path, _ in stored]
    dataset = over_parts(meeting, recall.asked_and_stored, work=job.work).repartition(shuffles, keys=["group"])
    dataset = mapped(dataset, recall.meet)
    blocks = 1 + max(part["block"] for part in placed)  # some may have no rows
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    with job.reporter.stage("recall", len(placed), "blocks") as stage:
        pairs = 0

        def tick(record: Record) -> None:
            nonlocal pairs
            pairs += record["rows"]
            stage.advance(note=f"{pairs:,} stored pairs")

        found = execute("recall", mapped(dataset, recall.write_found, fn_kwargs={"work": job.work}), tick)
    known = {record["block"]: record for record in by_block("recall", found)}
    return [{**part, "known": known.get(part["block"])} for part in placed]


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
    dataset = in_actors(encoded, score.ScoreBlock, settings, sizes, job.pools.gpus_per_scorer)
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
        return f"{store.pairs_of(path for path, _ in store.parts(storage.join(scorer.folder, job.run))):,} pairs stored"

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


def rescore(job: Job, parts: list[Record]) -> list[Record]:
    """Scores anew from known likelihoods; block records with `scored` and `sources`."""
    with job.reporter.stage("rescore", len(parts)) as stage:
        kwargs = {"work": job.work, "score": job.config.score.model_dump(), "seed": job.config.seed}
        dataset = mapped(items(parts), scored.rescore_part, fn_kwargs=kwargs)
        return by_block("rescore", execute("rescore", dataset, lambda record: stage.advance()))


def scored_of(blocks: list[Record]) -> list[Record]:
    """The SCORED parts of block records."""
    return [{**block["scored"], "block": block["block"]} for block in blocks]
