"""Where each row is scored: duplicates are found, and rows with shared work are brought together in blocks.

Rows go first by hash of (input, output): there duplicates meet, and so do rows that share pairs. Such a group then takes
the place of its first row's instruction, and instructions stand so that those which share prompts meet
(`operators/retrieval/prompt_order.py`): what rows of a block ask for together is computed once. Blocks are cut by cost. A row's
block and the rows beside it follow from the corpus alone, never from the order of rows, the read blocks or the number of
actors: that is why these cannot move a score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import PLACED, conform
from pipeline.engine import metrics
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, execute, items, mapped
from pipeline.engine.light_pass import divided, is_small, pass_here
from pipeline.retrieval.answers import ASKER, SHARD, answered
from pipeline.retrieval.blocks import block_count, block_width
from pipeline.retrieval.instructions import InstructionTable
from pipeline.retrieval.shards import Shards, cached_instructions, cached_queries, in_shards, shards_of_keys
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import BlockPart, Part, PlacedBlock, record_table, records_of

# Rows with one input and one output, from which on they are no longer kept together: labels of a classification would else
# make one block of millions of rows. About as many make a block by themselves.
GROUP_ROWS = 1000
_TEXTS = ("instruction", "input", "output", "messages", "extra")
# Of the instructions of an admitted part: their rows in the table of all, and where on the axis of costs theirs begin and end.
_STRETCHES = pa.schema(
    [("key", pa.binary(16)), ("instruction_row", pa.int64()), ("first", pa.int64()), ("last", pa.int64())]
)
_ANSWERS = pa.schema([(ASKER, pa.int64()), *_STRETCHES])


@dataclass(frozen=True)
class PartToPlace:
    """An admitted part with its number, and the stretches of its instructions where the table of these has several shards."""

    number: int
    part: Part
    stretches: Part | None = None


def place(job: Job, admitted: list[Part], table: InstructionTable) -> list[PlacedBlock]:
    """Shuffle rows to their places and mark duplicates; the blocks in order."""
    k, shards = job.config.alternatives.k, table.shards
    blocks = block_count(table.tokens, k)
    shuffles = max(1, -(-sum(part.bytes for part in admitted) * TEXT_PER_PARQUET_BYTE // SHUFFLE_BYTES))
    with job.reporter.stage("place", blocks, "blocks") as stage:
        parts = [PartToPlace(number, part) for number, part in enumerate(admitted)]
        if len(shards.sizes) > 1:
            parts = _with_stretches(job, parts, shards)
        cut = {"width": block_width(table.tokens, k), "blocks": blocks}
        if is_small(parts) and len(shards.sizes) == 1:
            placed = list(pass_here("place", PlacedBlock, parts, place_parts, work=job.work, shards=shards, **cut))
            stage.advance(blocks)
        else:
            dataset = mapped(items(parts), rows_of_parts, fn_kwargs={"shards": shards})
            dataset = dataset.repartition(shuffles, keys=["pair_key"])
            dataset = mapped(dataset, place_rows, fn_kwargs=cut)
            written = mapped(in_shards(dataset, "block", blocks), write_block, fn_kwargs={"work": job.work})
            placed = execute("place", PlacedBlock, written, lambda block: stage.advance())
        metrics.count("tss_rows", sum(sum(block.duplicates.values()) for block in placed), outcome="duplicate")
        return by_block("place", placed)


def _with_stretches(job: Job, parts: list[PartToPlace], shards: Shards) -> list[PartToPlace]:
    """The parts, each with the stretches of its instructions, as the shards know them."""
    questions = mapped(items(parts), keys_of_parts, fn_kwargs={"count": len(shards.sizes)})
    answers = answered(questions, stretches_of_keys, _ANSWERS, len(parts), shards)
    written = execute("place", BlockPart, mapped(answers, write_stretches, fn_kwargs={"work": job.work}))
    by_number = {record.block: record.part for record in written}
    return [PartToPlace(part.number, part.part, by_number[part.number]) for part in parts]


def keys_of_parts(batch: pa.Table, *, count: int) -> Iterable[pa.Table]:
    """The distinct keys of the instructions of each part, as questions."""
    for asking in records_of(PartToPlace, batch):
        keys = read_table(asking.part.path, ["instruction_key"])["instruction_key"].unique()
        asker = pa.array([asking.number] * len(keys), pa.int64())
        yield pa.table({ASKER: asker, SHARD: pa.array(shards_of_keys(keys, count)), "key": keys})


def stretches_of_keys(questions: pa.Table, shards: Shards, shard: int) -> pa.Table:
    """Answers: the stretch of each key's instruction."""
    keys = cached_instructions(shards.index, shard)["key"].combine_chunks()
    places = pc.index_in(questions["key"], value_set=keys).to_numpy().astype(np.int64)
    queries = cached_queries(shards.index, shard)
    rows = places + shards.first_row(shard)
    of_rows = np.searchsorted(queries["instruction_row"].to_numpy(), rows)
    return pa.table(
        {
            ASKER: questions[ASKER],
            "key": questions["key"],
            "instruction_row": pa.array(rows),
            **{name: queries[name].take(pa.array(of_rows)) for name in ("first", "last")},
        }
    )


def write_stretches(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the stretches of one part's instructions."""
    if not len(batch):
        return record_table([])
    part = write_part(f"{work}/stretches", batch.drop_columns([ASKER]), _STRETCHES)
    return record_table([BlockPart(batch[ASKER][0].as_py(), part)])


def rows_of_parts(batch: pa.Table, *, shards: Shards) -> Iterable[pa.Table]:
    """The ADMITTED tables of parts, with the stretches of their instructions beside."""
    for asking in records_of(PartToPlace, batch):
        table = read_table(asking.part.path)
        if asking.stretches is None:
            keys = table["instruction_key"].unique()
            asker = pa.array([asking.number] * len(keys), pa.int64())
            stretches = stretches_of_keys(pa.table({ASKER: asker, "key": keys}), shards, 0)
        else:
            stretches = read_table(asking.stretches.path)
        places = pc.index_in(table["instruction_key"], value_set=stretches["key"].combine_chunks())
        for name in ("instruction_row", "first", "last"):
            table = table.append_column(name, stretches[name].take(places))
        yield table


def place_parts(batch: pa.Table, *, work: str, shards: Shards, width: int, blocks: int) -> pa.Table:
    """Write the blocks of all rows of these parts, which are all that there are: what meets in a shuffle has met."""
    rows = pa.concat_tables(rows_of_parts(batch, shards=shards))
    return divided(place_rows(rows, width=width, blocks=blocks), "block", write_block, work=work)


def place_rows(table: pa.Table, *, width: int, blocks: int) -> pa.Table:
    """ADMITTED rows with their stretches, all with one hash of (input, output) together, become PLACED rows with a column
    `block` beside."""
    if not len(table):
        return conform_placed(pa.table({name: pa.array([], PLACED.field(name).type) for name in PLACED.names}), [])
    ids = np.array(table["id"].to_pylist())
    position = [table[name].to_numpy() for name in ("line", "file_index", "input_index")]
    by_id = np.lexsort((*position, ids))
    first = np.r_[True, ids[by_id][1:] != ids[by_id][:-1]]
    duplicate = np.zeros(len(ids), dtype=bool)
    duplicate[by_id[~first]] = True

    pair_keys = np.array([int.from_bytes(key[:8], "big") for key in table["pair_key"].to_pylist()], dtype=np.uint64)
    stretches = np.stack([table[name].to_numpy() for name in ("first", "last")], axis=1)
    place = _places(pair_keys, ids, stretches)
    placed = table.drop_columns(["first", "last"])
    placed = placed.append_column("duplicate", pa.array(duplicate)).append_column("place", pa.array(place))
    for name in _TEXTS:
        column = pa.array(
            [None if gone else text for gone, text in zip(duplicate, placed[name].to_pylist(), strict=True)],
            pa.string(),
        )
        placed = placed.set_column(placed.column_names.index(name), name, column)
    return conform_placed(placed, np.minimum(place // width, blocks - 1).tolist())


def conform_placed(table: pa.Table, block: list[int]) -> pa.Table:
    """PLACED with its block number, by which rows are then shuffled."""
    return conform(table, PLACED).append_column("block", pa.array(block, pa.int64()))


def _places(pair_keys: np.ndarray, ids: np.ndarray, stretches_N2: np.ndarray) -> np.ndarray:
    """Int64 [N]: each group of equal (input, output) stands in its first row's instruction's stretch of the cost axis, and
    where it is large each row of it in its own instruction's."""
    order = np.lexsort((ids, pair_keys))
    heads = np.flatnonzero(np.r_[True, pair_keys[order][1:] != pair_keys[order][:-1]])
    sizes = np.diff(np.r_[heads, len(order)])
    head_of = np.empty(len(order), dtype=np.int64)
    head_of[order] = np.where(np.repeat(sizes > GROUP_ROWS, sizes), order, order[np.repeat(heads, sizes)])
    first, last = stretches_N2[head_of].T
    places: np.ndarray = (first + pair_keys / 2.0**64 * (last - first)).astype(np.int64)
    return places


def write_block(batch: pa.Table, *, work: str) -> pa.Table:
    """Write one block of PLACED rows in their one order; the record holds its number, and its duplicates by source."""
    if not len(batch):
        return record_table([])
    part = write_part(f"{work}/placed", in_order(batch.drop_columns(["block"])), PLACED)
    counted = pc.value_counts(batch.filter(batch["duplicate"])["source"]).to_pylist()
    duplicates = {source["values"]: source["counts"] for source in counted}
    return record_table([PlacedBlock(batch["block"][0].as_py(), part, duplicates)])


def in_order(table: pa.Table) -> pa.Table:
    """A block's rows in their one order."""
    return table.sort_by(
        [
            ("place", "ascending"),
            ("pair_key", "ascending"),
            ("id", "ascending"),
            ("duplicate", "ascending"),
            ("input_index", "ascending"),
            ("file_index", "ascending"),
            ("line", "ascending"),
        ]
    )
