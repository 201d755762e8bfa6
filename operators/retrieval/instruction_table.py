"""The table of distinct instructions: how they are told apart, and how tables of several parts become one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash, fold_space, fold_wording
from operators.schema import INSTRUCTIONS, conform

_USE = ["has_input", "task"]


def instruction_key(instruction: str) -> bytes:
    """Identity of an instruction in the pool: hash of its text after NFC and white-space folding."""
    return content_hash(fold_space(instruction))


def has_input(text: str) -> bool:
    """Whether an input counts as one: white space alone does not."""
    return bool(text.strip())


def have_inputs(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """`has_input` of each text."""
    return pc.greater(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)


def wording_code(instruction: str) -> int:
    """64 bits of the hash of an instruction without case and punctuation: equal for those that are one under rule 1."""
    return int.from_bytes(content_hash(fold_wording(instruction))[:8], "little", signed=True)


def distinct_instructions(rows: pa.Table, max_length: int) -> pa.Table:
    """The INSTRUCTIONS of one table of ADMITTED rows (columns instruction_key, instruction, input, task, token counts), where
    a sequence has room for `max_length` tokens."""
    tokens = pc.add(rows["n_prompt_tokens"].cast(pa.int64()), rows["n_target_tokens"].cast(pa.int64()))
    uses = pa.table(
        {
            "key": rows["instruction_key"].cast(pa.binary(16)),
            "has_input": have_inputs(rows["input"]),
            "task": rows["task"].cast(pa.string()),
            "room": pc.subtract(pa.scalar(max_length, pa.int64()), tokens),
        }
    )
    texts = pa.table(
        {
            "key": uses["key"],
            "text": rows["instruction"],
            "in_pool": pa.array(np.ones(len(rows), dtype=bool)),
            "tokens": tokens,
        }
    )
    return _merged(texts, uses)


def pool_instructions(texts: list[str]) -> pa.Table:
    """The INSTRUCTIONS of a pool file, which no row uses."""
    table = pa.table(
        {
            "key": pa.array(map(instruction_key, texts), pa.binary(16)),
            "text": pa.array(texts, pa.string()),
            "in_pool": pa.array(np.ones(len(texts), dtype=bool)),
            "tokens": pa.array(np.zeros(len(texts), dtype=np.int64)),
        }
    )
    return _merged(table, _uses_of(INSTRUCTIONS.empty_table()))


def merge_instructions(tables: Iterable[pa.Table]) -> pa.Table:
    """Union by key, sorted by key. Of several raw texts of one key the smallest stands for it, whatever the order of rows."""
    table = pa.concat_tables([INSTRUCTIONS.empty_table(), *tables])
    return _merged(table, _uses_of(table))


def _uses_of(table: pa.Table) -> pa.Table:
    """A row for each use of each instruction: its key, has_input, task, room."""
    uses = table["uses"].combine_chunks()
    keys = table["key"].take(pc.list_parent_indices(uses))
    return pa.table({"key": keys, **dict(zip([*_USE, "room"], uses.flatten().flatten(), strict=True))})


def _merged(texts: pa.Table, uses: pa.Table) -> pa.Table:
    """INSTRUCTIONS of rows (key, text, in_pool, tokens), of which several may have one key, and of (key, use, room)."""
    merged = texts.group_by("key", use_threads=False).aggregate(
        [("text", "min"), ("in_pool", "any"), ("tokens", "sum")]
    )
    merged = merged.sort_by("key")
    distinct = uses.group_by(["key", *_USE], use_threads=False).aggregate([("room", "min")])
    distinct = distinct.take(use_order(distinct, "key")).combine_chunks()
    counts = np.zeros(len(merged), dtype=np.int64)
    if len(distinct):
        places = pc.index_in(distinct["key"], value_set=merged["key"].combine_chunks()).to_numpy()
        counts += np.bincount(places, minlength=len(merged))
    structs = pa.StructArray.from_arrays(
        [_one_chunk(distinct["has_input"]), _one_chunk(distinct["task"]), _one_chunk(distinct["room_min"])],
        names=[*_USE, "room"],
    )
    columns = {
        "key": merged["key"],
        "text": merged["text_min"],
        "size": pc.binary_length(merged["text_min"]).cast(pa.int64()),
        "wording": pa.array(map(wording_code, merged["text_min"].to_pylist()), pa.int64()),
        "in_pool": merged["in_pool_any"],
        "tokens": merged["tokens_sum"],
        "uses": pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)], pa.int32()), structs),
    }
    return conform(pa.table(columns), INSTRUCTIONS)


def use_order(table: pa.Table, first: str) -> pa.Array:
    """The order of rows by a column, and of those that share it by (has_input, task), where no task comes first."""
    columns = {
        first: table[first],
        "has_input": table["has_input"].cast(pa.int8()),
        "named": pc.is_valid(table["task"]).cast(pa.int8()),
        "task": pc.fill_null(table["task"], ""),
    }
    return pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
