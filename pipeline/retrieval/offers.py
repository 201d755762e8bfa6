"""What encoding needs to know of each block: the candidates of its queries, as texts. Then it loads nothing but its block.

Blocks ask twice: for the candidates of their queries, which the shards of the instructions know, and for the texts of these,
which are of any shard. Where there is one shard, a task answers both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.retrieval.instruction_table import have_inputs
from operators.retrieval.query_table import find_queries
from operators.schema import OFFERS, QUERIES
from pipeline.engine.job import Job, execute, items, mapped, stream
from pipeline.engine.light_pass import light_pass
from pipeline.retrieval.answers import ASKER, SHARD, answered
from pipeline.retrieval.shards import Shards, cached_embeddings, cached_instructions, cached_queries
from pipeline.storage import urls
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import BlockPart, Part, PlacedBlock, record_table, records_of

_QUERY = ["instruction_row", "has_input", "task"]
_KNOWN = pa.schema([(ASKER, pa.int64()), *QUERIES, ("embedding", pa.list_(pa.float32()))])
_TEXTS = pa.schema([(ASKER, pa.int64()), ("row", pa.int64()), ("text", pa.string())])


def offer(job: Job, placed: list[PlacedBlock], shards: Shards) -> dict[int, Part]:
    """By block, the part of its OFFERS."""
    embeddings = job.config.alternatives.source != "retrieved"
    with job.reporter.stage("offer", len(placed), "blocks") as stage:
        if len(shards.sizes) == 1:
            kwargs: dict[str, Any] = {"work": job.work, "shards": shards, "embeddings": embeddings}
            offered = light_pass("offer", BlockPart, placed, offers_of_blocks, **kwargs)
        else:
            offered = stream("offer", BlockPart, _asked(job, placed, shards, embeddings))
        parts = {}
        for record in offered:
            parts[record.block] = record.part
            stage.advance()
    return parts


def _asked(job: Job, placed: list[PlacedBlock], shards: Shards, embeddings: bool):  # type: ignore[no-untyped-def]
    blocks = 1 + max(block.block for block in placed)
    questions = mapped(items(placed), ask_for_queries, fn_kwargs={"shards": shards})
    known = answered(questions, queries_known, _KNOWN, blocks, shards, embeddings=embeddings)
    asked = execute("offer", int, mapped(known, write_known, fn_kwargs={"work": job.work}))
    questions = mapped(items(sorted(asked)), ask_for_texts, fn_kwargs={"work": job.work, "shards": shards})
    texts = answered(questions, texts_known, _TEXTS, blocks, shards)
    return mapped(texts, write_offers, fn_kwargs={"work": job.work})


def offers_of_blocks(batch: pa.Table, *, work: str, shards: Shards, embeddings: bool) -> pa.Table:
    """Write the OFFERS of blocks, where the table of instructions has one shard."""
    records = []
    for block in records_of(PlacedBlock, batch):
        known = queries_known(_queries_of(block, shards), shards, 0, embeddings=embeddings)
        texts = texts_known(_rows_of(known, block.block, shards), shards, 0)
        records.append(BlockPart(block.block, _write(work, known, texts)))
    return record_table(records)


def ask_for_queries(batch: pa.Table, *, shards: Shards) -> Iterable[pa.Table]:
    """The distinct queries of the rows of blocks."""
    for block in records_of(PlacedBlock, batch):
        yield _queries_of(block, shards)


def _queries_of(block: PlacedBlock, shards: Shards) -> pa.Table:
    placed = read_table(block.part.path, ["instruction_row", "input", "task", "duplicate"])
    rows = placed.filter(pc.invert(placed["duplicate"]))
    rows = rows.append_column("has_input", have_inputs(rows["input"])).select(_QUERY)
    distinct = rows.group_by(_QUERY, use_threads=False).aggregate([])
    columns = {
        ASKER: pa.array([block.block] * len(distinct), pa.int64()),
        SHARD: pa.array(shards.of_rows(distinct["instruction_row"].to_numpy())),
    }
    for name, column in columns.items():
        distinct = distinct.append_column(name, column)
    return distinct


def queries_known(questions: pa.Table, shards: Shards, shard: int, *, embeddings: bool) -> pa.Table:
    """Answers: what is known of queries of one shard; with the embeddings of their instructions, where these are asked for."""
    queries = cached_queries(shards.index, shard)
    rows = queries["instruction_row"].to_numpy()
    asked = questions["instruction_row"].to_numpy()
    # Those of the instructions that are asked for alone: labels are texts.
    begins, ends = np.searchsorted(rows, asked), np.searchsorted(rows, asked, side="right")
    places = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(begins, ends, strict=True)] or [begins]))
    found = find_queries(questions, queries.take(pa.array(places)))
    vectors = [None] * len(found)
    if embeddings:
        vectors = list(cached_embeddings(shards.index, shard)[asked - shards.first_row(shard)])
    found = found.append_column("embedding", pa.array(vectors, pa.list_(pa.float32())))
    return found.append_column(ASKER, questions[ASKER]).select(_KNOWN.names)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def write_known(batch: pa.Table, *, work: str) -> pa.Table:
    """Write what is known of the queries of one block; its number."""
    if not len(batch):
        return record_table([])
    block = batch[ASKER][0].as_py()
    write_table(_known_path(work, block), batch)
    return record_table([block])


def _known_path(work: str, block: int) -> str:
    return urls.join(work, "queries_of_blocks", f"{block:06d}.parquet")


def ask_for_texts(batch: pa.Table, *, work: str, shards: Shards) -> Iterable[pa.Table]:
    """The distinct rows of all candidates of blocks. One of no row stands for each block: it may have none."""
    for block in records_of(int, batch):
        yield _rows_of(read_table(_known_path(work, block)), block, shards)


def _rows_of(known: pa.Table, block: int, shards: Shards) -> pa.Table:
    rows = np.unique(np.r_[pc.list_flatten(known["candidates"]).to_numpy(), known["instruction_row"][:1].to_numpy()])
    asker = pa.array([block] * len(rows), pa.int64())
    return pa.table({ASKER: asker, SHARD: pa.array(shards.of_rows(rows)), "row": pa.array(rows)})


def texts_known(questions: pa.Table, shards: Shards, shard: int) -> pa.Table:
    """Answers: the texts of instructions of one shard."""
    rows = questions["row"].to_numpy() - shards.first_row(shard)
    texts = cached_instructions(shards.index, shard)["text"].take(pa.array(rows))
    return pa.table({ASKER: questions[ASKER], "row": questions["row"], "text": texts})


def write_offers(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the OFFERS of one block from the texts that it asked for."""
    if not len(batch):
        return record_table([])
    block = batch[ASKER][0].as_py()
    return record_table([BlockPart(block, _write(work, read_table(_known_path(work, block)), batch))])


def _write(work: str, known: pa.Table, texts: pa.Table) -> Part:
    candidates = known["candidates"].combine_chunks()
    places = pc.index_in(candidates.flatten(), value_set=_whole(texts["row"]))
    offsets = np.r_[0, np.cumsum(candidates.value_lengths().to_numpy())]
    named = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _whole(texts["text"].take(places)))
    table = known.set_column(known.column_names.index("candidates"), "candidates", named)
    return write_part(f"{work}/offers", table.select(OFFERS.names), OFFERS)
