"""Where each row is scored: duplicates are found, and rows with shared work are brought together in blocks.

Rows go first by hash of (input, output): there duplicates meet, and so do rows that share pairs. Such a group then takes
the place of its first row's instruction, and instructions stand so that those which share prompts meet
(`operators/retrieval/prompt_order.py`): what rows of a block ask for together is computed once. Blocks are cut by cost. A row's
block and the rows beside it follow from the corpus alone, never from the order of rows, the read blocks or the number of
actors: that is why these cannot move a score.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.retrieval.alternatives import has_input
from operators.schema import PLACED, conform
from pipeline.engine import metrics
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, execute, items, mapped
from pipeline.storage.arrays import load_array
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import Part, PlacedBlock, record_table, records_of

# About so many tokens, over all sequences of its rows, make a block: prefixes are shared within it, so it is large; it is also
# what a failed actor loses, and no more actors than blocks can work.
BLOCK_TOKENS = 1 << 20
# Rows with one input and one output, from which on they are no longer kept together: labels of a classification would else
# make one block of millions of rows. About as many make a block by themselves.
GROUP_ROWS = 1000
_TEXTS = ("instruction", "input", "output", "messages", "extra")


def place(job: Job, admitted: list[Part], tokens: int) -> list[PlacedBlock]:
    """Shuffle rows to their places and mark duplicates; the blocks in order."""
    blocks = block_count(tokens, job.config.alternatives.k)
    shuffles = max(1, -(-sum(part.bytes for part in admitted) * TEXT_PER_PARQUET_BYTE // SHUFFLE_BYTES))
    dataset = mapped(items(admitted), read_parts).repartition(shuffles, keys=["pair_key"])
    dataset = mapped(dataset, place_rows, fn_kwargs={"index": job.index, "blocks": blocks})
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    with job.reporter.stage("place", blocks, "blocks") as stage:
        written = mapped(dataset, write_block, fn_kwargs={"work": job.work})
        placed = execute("place", PlacedBlock, written, lambda block: stage.advance())
        metrics.count("tss_rows", sum(sum(block.duplicates.values()) for block in placed), outcome="duplicate")
        return by_block("place", placed)


def read_parts(batch: pa.Table) -> Iterable[pa.Table]:
    """The ADMITTED tables of recorded parts."""
    for part in records_of(Part, batch):
        yield read_table(part.path)


def block_count(tokens: int, k: int) -> int:
    """How many blocks a run has: `tokens` is the sum of prompt and target tokens over its rows."""
    return max(1, -(-tokens * (k + 1) // BLOCK_TOKENS))


@lru_cache(maxsize=1)
def _lookups(index: str) -> tuple[dict[bytes, int], np.ndarray, dict[tuple[int, bool, str | None], int]]:
    instructions = read_table(f"{index}/instructions.parquet", ["key", "tokens"])
    queries = read_table(f"{index}/neighbours.parquet", ["instruction_row", "has_input", "task"]).to_pydict()
    rows = {key: row for row, key in enumerate(instructions["key"].to_pylist())}
    order, tokens = load_array(f"{index}/order.arrow"), instructions["tokens"].to_numpy()
    stretches = np.zeros((len(order), 2), dtype=np.int64)
    stretches[order, 1] = np.cumsum(tokens[order])
    stretches[:, 0] = stretches[:, 1] - tokens
    by_query = {
        key: row
        for row, key in enumerate(zip(queries["instruction_row"], queries["has_input"], queries["task"], strict=True))
    }
    return rows, stretches, by_query


def place_rows(table: pa.Table, *, index: str, blocks: int) -> pa.Table:
    """ADMITTED rows, all with one hash of (input, output) together, become PLACED rows with a column `block` beside."""
    if not len(table):
        return conform_placed(pa.table({name: pa.array([], PLACED.field(name).type) for name in PLACED.names}), [])
    ids = np.array(table["id"].to_pylist())
    position = [table[name].to_numpy() for name in ("line", "file_index", "input_index")]
    by_id = np.lexsort((*position, ids))
    first = np.r_[True, ids[by_id][1:] != ids[by_id][:-1]]
    duplicate = np.zeros(len(ids), dtype=bool)
    duplicate[by_id[~first]] = True

    rows, stretches, by_query = _lookups(index)
    instruction_rows = np.array([rows[key] for key in table["instruction_key"].to_pylist()])
    pair_keys = np.array([int.from_bytes(key[:8], "big") for key in table["pair_key"].to_pylist()], dtype=np.uint64)
    place = _places(pair_keys, ids, instruction_rows, stretches)
    queries = zip(
        instruction_rows.tolist(), map(has_input, table["input"].to_pylist()), table["task"].to_pylist(), strict=True
    )
    placed = table.append_column("duplicate", pa.array(duplicate)).append_column("place", pa.array(place))
    placed = placed.append_column("query_row", pa.array([by_query[query] for query in queries], pa.int64()))
    for name in _TEXTS:
        column = pa.array(
            [None if gone else text for gone, text in zip(duplicate, placed[name].to_pylist(), strict=True)],
            pa.string(),
        )
        placed = placed.set_column(placed.column_names.index(name), name, column)
    width = max(1, -(-int(stretches[:, 1].max()) // blocks))
    return conform_placed(placed, np.minimum(place // width, blocks - 1).tolist())


def conform_placed(table: pa.Table, block: list[int]) -> pa.Table:
    """PLACED with its block number, by which rows are then shuffled."""
    return conform(table, PLACED).append_column("block", pa.array(block, pa.int64()))


def _places(pair_keys: np.ndarray, ids: np.ndarray, instruction_rows: np.ndarray, stretches: np.ndarray) -> np.ndarray:
    """Int64 [N]: each group of equal (input, output) stands in its first row's instruction's stretch of the cost axis, and
    where it is large each row of it in its own instruction's."""
    order = np.lexsort((ids, pair_keys))
    heads = np.flatnonzero(np.r_[True, pair_keys[order][1:] != pair_keys[order][:-1]])
    sizes = np.diff(np.r_[heads, len(order)])
    head_of = np.empty(len(order), dtype=np.int64)
    head_of[order] = np.where(np.repeat(sizes > GROUP_ROWS, sizes), order, order[np.repeat(heads, sizes)])
    first, last = stretches[instruction_rows[head_of]].T
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
