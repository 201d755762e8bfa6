"""The driver's side of each stage: build the dataset, run it, keep the records. What happens to rows is elsewhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from pipeline import admit, changes, digest, metrics, place, retrieve, snapshot, storage, store
from pipeline.job import Job, by_block, execute, in_actors, items, mapped, once, over_parts, stream
from pipeline.parts import Record
from pipeline.preflight import Checked
from pipeline.progress import Reporter
from pipeline.resources import no_more_than
from pipeline.sources import Chunk

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
            metrics.count("tss_rows", record["read"], outcome="read")
            metrics.rejected(record["reasons"])
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


def retrieve_alternatives(
    job: Job, admitted: list[Record], pool_texts: list[str] | None, embeddings: str, version: str
) -> Record:
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
    stored = [(run, path) for run, path, _ in store.by_run(embeddings) if not job.fresh and run != job.run]
    recalled = once("embed", retrieve.recall_embeddings, stored, job.index, job.work)
    ranges = _ranges(recalled["missing"], EMBED_BATCHES * config.embedder.batch_size)
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": job.index,
            "folder": storage.join(embeddings, job.run),
            "a_node": job.pools.embedders_a_node,
            "embedder": {**config.embedder.model_dump(), "version": version},
        }
        parts = []
        if ranges:
            sizes = no_more_than(job.pools.embedders, len(ranges))
            dataset = in_actors(items(ranges), retrieve.EmbedRange, kwargs, sizes)
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
    return table


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
        metrics.count("tss_rows", sum(sum(one["duplicates"].values()) for one in records), outcome="duplicate")
        return by_block("place", records)


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
