"""The driver's side of each stage: build the dataset, run it, keep the records. What happens to rows is elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline import admit, changes, digest, encode, place, recall, retrieve, score, snapshot, storage, store
from pipeline.encode import Round
from pipeline.job import Job, execute, items, mapped, once, over_parts, stream
from pipeline.parts import Record
from pipeline.preflight import Checked
from pipeline.progress import Reporter
from pipeline.resources import actor_pool
from pipeline.sources import Chunk


@dataclass(frozen=True)
class Scorer:
    """What scoring actors need: settings of the encoder and the model, and the scorer's folder of the likelihood store."""

    encoder: dict[str, Any]
    model: dict[str, Any]
    folder: str


EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
NEIGHBOUR_RANGE = 2048
SHUFFLE_BYTES = 64 << 20  # admitted text in one block of the shuffle that finds duplicates
TEXT_PER_PARQUET_BYTE = 4  # what compressed text takes in memory


def take_snapshot(reporter: Reporter, chunks: list[Chunk]) -> list[Record]:
    """What each input file holds, as a digest of its content; records in the order of the inputs."""
    pieces = snapshot.pieces_of(chunks)
    with reporter.stage("snapshot", len(pieces), "pieces") as stage:
        found = execute("snapshot", mapped(items(pieces), snapshot.digest_piece), lambda record: stage.advance())
    return snapshot.join_pieces(chunks, found)


def read(job: Job, chunks: list[Chunk], checked: Checked) -> list[Record]:
    """Admit or reject every row; records by chunk."""
    chunks = _with_line_numbers(chunks)
    with job.reporter.stage("read", len(chunks), "chunks") as stage:
        rows = 0

        def tick(record: Record) -> None:
            nonlocal rows
            rows += record["read"]
            stage.advance(note=f"{rows:,} rows")

        kwargs = {"work": job.work, "encoder": checked.encoder, "too_long": job.config.scorer.too_long}
        return execute(
            "read", mapped(items([chunk.to_json() for chunk in chunks]), admit.admit_chunk, fn_kwargs=kwargs), tick
        )


def _with_line_numbers(chunks: list[Chunk]) -> list[Chunk]:
    """Lines are numbered within a file, so a file in several byte ranges needs its lines counted first."""
    split = [
        chunk
        for chunk in chunks
        if chunk.kind == "jsonl" and chunk.stop >= 0 and (chunk.start or chunk.stop < chunk.size)
    ]
    if not split:
        return chunks
    counted = execute("read", mapped(items([chunk.to_json() for chunk in split]), admit.count_chunk))
    lines = {tuple(record["index"]): record["lines"] for record in counted}
    result: list[Chunk] = []
    next_line: dict[tuple[int, int], int] = {}
    for chunk in chunks:
        file = (chunk.input_index, chunk.file_index)
        result.append(replace(chunk, first_line=next_line.get(file, 1)))
        next_line[file] = next_line.get(file, 1) + lines.get((*file, chunk.start), 0)
    return result


def _stored(folder: str) -> list[tuple[str, str]]:
    """(run, path) of the parts in a folder of the store."""
    return [(path[len(folder) + 1 :].partition("/")[0], path) for path, _ in store.parts(folder)]


def retrieve_alternatives(job: Job, admitted: list[Record], pool_texts: list[str] | None, embeddings: str) -> Record:
    """Build the index: distinct instructions, embeddings of those that `embeddings` does not hold yet, exact neighbours."""
    config = job.config
    with job.reporter.stage("instructions", len(admitted)) as stage:
        parts = execute(
            "instructions",
            mapped(items(admitted), retrieve.instructions_of_part, fn_kwargs={"work": job.work}),
            lambda record: stage.advance(note=f"{record['rows']:,} in this part"),
        )
        table = once("instructions", retrieve.build_table, parts, job.index, pool_texts)
        stage.advance(0, f"{table['instructions']:,} distinct instructions")
    stored = [one for one in _stored(embeddings) if not job.fresh and one[0] != job.run]
    recalled = once("embed", retrieve.recall_embeddings, stored, job.index)
    ranges = _ranges(recalled["missing"], EMBED_BATCHES * config.embedder.batch_size)
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": job.index,
            "folder": storage.join(embeddings, job.run),
            "threads": job.pools.threads_per_embedder,
            **config.embedder.model_dump(),
        }
        actors = min(job.pools.embedders, len(ranges))
        parts = []
        if ranges:
            dataset = _in_actors(items(ranges), retrieve.EmbedRange, kwargs, actors, job.pools.gpus_per_embedder)
            parts = execute("embed", dataset, lambda record: stage.advance())
        once("embed", retrieve.build_matrix, parts, job.index)
        stage.advance(0, f"{recalled['missing']:,} new instructions")
    ranges = _ranges(table["instructions"], NEIGHBOUR_RANGE)
    with job.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": job.work, "pool": pool_settings(job), "k": config.alternatives.k}
        parts = execute(
            "neighbours",
            mapped(items(ranges), retrieve.neighbours_of_range, fn_kwargs=kwargs),
            lambda record: stage.advance(),
        )
        blocks = place.block_count(table["tokens"], config.alternatives.k)
        once("neighbours", retrieve.build_neighbours, parts, job.index, config.alternatives.k, blocks)
    return {**table, "damaged": recalled["damaged"]}


def _in_actors(dataset: Any, actor: type, settings: dict[str, Any], size: int, gpus: float) -> Any:
    """A dataset of the records that a pool of `size` actors makes of the rows of another, one row at a time."""
    return mapped(
        dataset,
        actor,
        fn_constructor_kwargs=settings,
        compute=actor_pool(size),
        batch_size=1,
        num_gpus=gpus or None,
    )


def _ranges(count: int, size: int) -> list[dict[str, int]]:
    return [{"start": start, "stop": min(start + size, count)} for start in range(0, count, size)]


def pool_settings(job: Job) -> dict[str, Any]:
    """What a worker needs to load the pool."""
    wanted = job.config.alternatives
    return {"index": job.index, "paraphrase_max": wanted.paraphrase_max, "same_task": wanted.same_task}


def place_rows(job: Job, admitted: list[Record], tokens: int) -> list[Record]:
    """Shuffle rows to their places and mark duplicates; records in the order of the blocks."""
    blocks = place.block_count(tokens, job.config.alternatives.k)
    shuffles = max(1, -(-sum(part["bytes"] for part in admitted) * TEXT_PER_PARQUET_BYTE // SHUFFLE_BYTES))
    dataset = mapped(items(admitted), place.read_parts).repartition(shuffles, keys=["pair_key"])
    dataset = mapped(dataset, place.place_rows, fn_kwargs={"index": job.index, "blocks": blocks})
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    with job.reporter.stage("place", blocks, "blocks") as stage:
        records = execute(
            "place", mapped(dataset, place.write_block, fn_kwargs={"work": job.work}), lambda record: stage.advance()
        )
        return sorted(records, key=lambda record: record["block"])


def recall_pairs(job: Job, placed: list[Record], scorer: str) -> tuple[list[Record], list[str]]:
    """The same records with what earlier runs have stored of each block in `known`; and damaged parts of the store."""
    stored = [(run, path) for run, path in _stored(scorer) if not job.fresh and run != job.run]
    if not stored:
        return placed, []
    sizes = dict(store.parts(scorer))
    shuffles = max(1, -(-sum(sizes.get(path, 0) for _, path in stored) * TEXT_PER_PARQUET_BYTE // SHUFFLE_BYTES))
    meeting = [{"path": part["path"], "block": part["block"]} for part in placed]
    meeting += [{"path": path, "run": run} for run, path in stored]
    dataset = over_parts(meeting, recall.asked_and_stored, work=job.work).repartition(shuffles, keys=["group"])
    dataset = mapped(dataset, recall.meet)
    blocks = len(placed)
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    known: dict[int, Record] = {}
    with job.reporter.stage("recall", blocks, "blocks") as stage:
        for record in stream("recall", mapped(dataset, recall.write_found, fn_kwargs={"work": job.work})):
            known[record["block"]] = record
            stage.advance(note=f"{sum(one['rows'] for one in known.values()):,} stored pairs")
    notes = storage.list_files(storage.join(job.work, recall.NOTES))
    damaged = [storage.read(path).decode() for path, _ in notes]
    return [{**part, "known": known.get(part["block"])} for part in placed], damaged


def score_blocks(job: Job, blocks: list[Record], scorer: Scorer, round: Round) -> list[Record]:
    """One round of scoring: tasks encode block by block, the actor pool scores; the records of the blocks after it.

    A block's record holds what was placed there and what all rounds so far have made of it.
    """
    config = job.config
    settings = {
        "work": job.work,
        "kept": {"scorer": scorer.folder, "run": job.run},
        "every": config.store.write_every,
        "encoder": scorer.encoder,
        "model": scorer.model,
        "batch_tokens": config.scorer.batch_tokens,
        "score": config.score.model_dump(),
        "seed": config.seed,
        "threshold": round.threshold,
        "threads": job.pools.threads_per_scorer,
    }
    items_ = [{name: block[name] for name in ("block", "placed", "scored", "known")} for block in blocks]
    encoded = mapped(
        items(items_),
        encode.encode_block,
        fn_kwargs={
            "index": job.index,
            "encoder": scorer.encoder,
            "pool": pool_settings(job),
            "k": config.alternatives.k,
            "round": asdict(round),
        },
    )
    dataset = _in_actors(encoded, score.ScoreBlock, settings, job.pools.scorers, job.pools.gpus_per_scorer)
    after = {block["block"]: block for block in blocks}
    name = "score" if round.name == "all" else f"score {round.name}"
    rows = sum(block["placed"]["rows"] - sum(block["duplicates"].values()) for block in blocks)
    of_round = {
        "pilot": "a sample of ",
        "rest": "those not in the sample of ",
        "again": "those above the threshold of ",
    }
    slow = f"{of_round.get(round.name, '')}{rows:,} rows, at most {config.alternatives.k + 2} pairs each"
    with job.reporter.stage(name, len(blocks), "blocks", slow=slow) as stage:
        pairs, seconds = 0, 0.0
        for record in stream("score", dataset):
            work = record["work"]
            pairs, seconds = pairs + work["computed"] - work["resumed"], seconds + record["seconds"]
            stage.advance(note=f"{pairs:,} pairs, {pairs / max(seconds, 1e-9):,.0f} a second and scorer")
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
        dataset = mapped(items(parts), score.rescore_part, fn_kwargs=kwargs)
        return sorted(execute("rescore", dataset, lambda record: stage.advance()), key=lambda record: record["block"])


def compare(job: Job, before: dict[str, list[Record]], after: dict[str, list[Record]]) -> dict[str, dict[str, int]]:
    """What happened since an earlier run: its rows and its selected rows against those of this one (`changes.py`)."""
    found = {}
    with job.reporter.stage("changes", 2, "tables") as stage:
        for kind in ("scored", "selected"):
            sides = [
                {"path": part["path"], "kind": kind, "after": side}
                for side, parts in ((False, before[kind]), (True, after[kind]))
                for part in parts
            ]
            size = max(1, sum(part["rows"] for part in [*before[kind], *after[kind]]) // changes.ROWS_TOGETHER)
            dataset = over_parts(sides, changes.sides_of_parts).repartition(size, keys=["id"])
            counts: Counter[str] = Counter()
            for record in stream("changes", mapped(dataset, changes.count_changes)):
                counts.update(record)
            found[kind] = {name: counts[name] for name in changes.NAMES}
            stage.advance()
    return found


def digest_scores(job: Job, parts: list[Record]) -> digest.Digest:
    """What the summary shows of the scores in SCORED parts."""
    found = digest.Digest()
    with job.reporter.stage("digest", len(parts)) as stage:
        for record in stream("digest", over_parts(parts, digest.digest_part)):
            found.take(record)
            stage.advance()
    return found


def scored_of(blocks: list[Record]) -> list[Record]:
    """The SCORED parts of block records."""
    return [{**block["scored"], "block": block["block"]} for block in blocks]
