"""The driver's side of each stage: build the dataset, run it, keep the records. What happens to rows is elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline import admit, place, retrieve, score
from pipeline.job import Job, execute, items, mapped, once
from pipeline.parts import Record
from pipeline.preflight import Checked
from pipeline.resources import actor_pool
from pipeline.sources import Chunk
from pipeline.summary import Digest

EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
NEIGHBOUR_RANGE = 2048
SHUFFLE_BYTES = 64 << 20  # admitted text in one block of the shuffle that finds duplicates
TEXT_PER_PARQUET_BYTE = 4  # what compressed text takes in memory


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


def retrieve_alternatives(job: Job, admitted: list[Record], pool_texts: list[str] | None) -> Record:
    """Build the index: distinct instructions, embeddings in an actor pool, exact neighbours."""
    config = job.config
    with job.reporter.stage("instructions", len(admitted)) as stage:
        parts = execute(
            "instructions",
            mapped(items(admitted), retrieve.instructions_of_part, fn_kwargs={"work": job.work}),
            lambda record: stage.advance(note=f"{record['rows']:,} in this part"),
        )
        table = once("instructions", retrieve.build_table, parts, job.index, pool_texts)
        stage.advance(0, f"{table['instructions']:,} distinct instructions")
    ranges = _ranges(table["instructions"], EMBED_BATCHES * config.embedder.batch_size)
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": job.index,
            "threads": job.pools.threads_per_embedder,
            **config.embedder.model_dump(),
        }
        dataset = _in_actors(ranges, retrieve.EmbedRange, kwargs, job.pools.embedders, job.pools.gpus_per_embedder)
        parts = execute("embed", dataset, lambda record: stage.advance())
        once("embed", retrieve.build_matrix, parts, job.index)
    ranges = _ranges(table["instructions"], NEIGHBOUR_RANGE)
    with job.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": job.work, "pool": pool_settings(job), "k": config.alternatives.k}
        parts = execute(
            "neighbours",
            mapped(items(ranges), retrieve.neighbours_of_range, fn_kwargs=kwargs),
            lambda record: stage.advance(),
        )
        once("neighbours", retrieve.build_neighbours, parts, job.index)
    return table


def _in_actors(values: list[Any], actor: type, settings: dict[str, Any], size: int, gpus: float) -> Any:
    """A dataset of the records that a pool of `size` actors makes of these values, one value at a time."""
    return mapped(
        items(values),
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


def score_blocks(
    job: Job, placed: list[Record], encoder: dict[str, Any], model: dict[str, Any]
) -> tuple[list[Record], Digest]:
    """Score block by block in the actor pool; records in the order of the blocks, and a digest of the scores."""
    config = job.config
    kwargs = {
        "work": job.work,
        "index": job.index,
        "encoder": encoder,
        "pool": pool_settings(job),
        "model": model,
        "batch_tokens": config.scorer.batch_tokens,
        "k": config.alternatives.k,
        "score": config.score.model_dump(),
        "threads": job.pools.threads_per_scorer,
    }
    dataset = _in_actors(placed, score.ScoreBlock, kwargs, job.pools.scorers, job.pools.gpus_per_scorer)
    with job.reporter.stage("score", len(placed), "blocks") as stage:
        done, digest = {"pairs": 0, "seconds": 0.0}, Digest()

        def tick(record: Record) -> None:
            done["pairs"] += record["work"]["computed"]
            done["seconds"] += record["seconds"]
            digest.take(record)
            stage.advance(
                note=f"{done['pairs']:,} pairs, {done['pairs'] / max(done['seconds'], 1e-9):,.0f} a second and scorer"
            )

        return sorted(execute("score", dataset, tick), key=lambda record: record["block"]), digest


def rescore(job: Job, parts: list[Record]) -> tuple[list[Record], Digest]:
    """Scores anew from known likelihoods; as `score_blocks`."""
    with job.reporter.stage("rescore", len(parts)) as stage:
        kwargs = {"work": job.work, "score": job.config.score.model_dump()}
        digest = Digest()

        def tick(record: Record) -> None:
            digest.take(record)
            stage.advance()

        records = execute("rescore", mapped(items(parts), score.rescore_part, fn_kwargs=kwargs), tick)
        return sorted(records, key=lambda record: record["block"]), digest
