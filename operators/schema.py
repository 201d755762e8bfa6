"""One Arrow schema per stage boundary, declared once. `conform` is the only way into a stage's part files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# Where a row came from: its file, index of the input in the config and of the file in that input, line or row (from 1).
_POSITION = [
    pa.field("file", pa.string()),
    pa.field("input_index", pa.int32()),
    pa.field("file_index", pa.int32()),
    pa.field("line", pa.int64()),
]
# A row's texts; `messages` holds the turns of a conversation as they were, as JSON, and is null where the row was none. Of an
# input all of whose turns are examples, `conversation` is a hash of `messages`, and `turn` the place of the answer there.
_TEXT = [
    *(pa.field(name, pa.string()) for name in ("instruction", "input", "output", "messages")),
    pa.field("conversation", pa.string()),
    pa.field("turn", pa.int32()),
    pa.field("extra", pa.string()),
]
_SOURCE = pa.field("source", pa.string())

# read -> everything after it: a valid row with its token counts. `input_chars` is how many characters of the input are
# scored: all of them, unless `too_long: truncate_input` cut some. `pair_key` is the hash of (input, output).
ADMITTED = pa.schema(
    [
        pa.field("id", pa.string()),
        _SOURCE,
        *_TEXT,
        pa.field("task", pa.string()),
        *_POSITION,
        pa.field("instruction_key", pa.binary(16)),
        pa.field("pair_key", pa.binary(16)),
        pa.field("input_chars", pa.int64()),
        pa.field("n_prompt_tokens", pa.int32()),
        pa.field("n_target_tokens", pa.int32()),
    ]
)

REJECTED = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("raw", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

# Rows that are gone since a near duplicate of them stays: where they stood, the id of that row, and how similar it is.
NEAR_DUPLICATES = pa.schema(
    [
        pa.field("id", pa.string()),
        _SOURCE,
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("turn", pa.int32()),
        pa.field("stayed", pa.string()),
        pa.field("similarity", pa.float64()),
    ]
)
# What each admitted part had of them, copies of one row among them.
DROPPED = pa.schema([pa.field("id", pa.string()), _SOURCE, *_POSITION, pa.field("turn", pa.int32())])

# Pairs of rows to compare, by the two halves of their ids, and the characters of both; then those that are near duplicates,
# with what decides which of the two comes first.
_PAIR = [pa.field(name, pa.uint64()) for name in ("some_0", "some_1", "other_0", "other_1")]
CANDIDATE_PAIRS = pa.schema([*_PAIR, pa.field("chars", pa.int64())])
SIMILAR_PAIRS = pa.schema(
    [
        *_PAIR,
        *(pa.field(name, pa.int64()) for name in ("some_input", "some_chars", "other_input", "other_chars")),
        pa.field("similarity", pa.float64()),
    ]
)

# One row per distinct instruction, per part, and then of the whole run in shards. `size` is its bytes, `wording` a code that
# instructions share which differ in case and punctuation alone, `tokens` the cost of its rows.
INSTRUCTIONS = pa.schema(
    [
        pa.field("key", pa.binary(16)),
        pa.field("text", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("wording", pa.int64()),
        pa.field("in_pool", pa.bool_()),
        pa.field("tokens", pa.int64()),
        # Every (has input, task) under which rows use this instruction; each is a query of its own. `room`: the tokens that the
        # longest of these rows leaves free in a sequence.
        pa.field(
            "uses",
            pa.list_(
                pa.struct(
                    [
                        pa.field("has_input", pa.bool_()),
                        pa.field("task", pa.string()),
                        pa.field("room", pa.int64()),
                    ]
                )
            ),
        ),
    ]
)

# Stored by the key of the instruction, whatever row of a table it has in one run.
EMBEDDINGS = pa.schema([pa.field("key", pa.binary(16)), pa.field("embedding", pa.list_(pa.float32()))])

# Distinct inputs of which somebody writes instructions; `key` is the hash of the text.
INPUTS = pa.schema([pa.field("key", pa.binary(16)), pa.field("input", pa.string())])

# Stored by the key of the input: what a generator answered, null where it takes no such input, and whether it came to its end
# rather than to its greatest length.
GENERATED = pa.schema([pa.field("key", pa.binary(16)), pa.field("text", pa.string()), pa.field("finished", pa.bool_())])

# The instructions that were written for an input, in their order: rows of the table of all that were written.
WRITTEN = pa.schema([pa.field("key", pa.binary(16)), pa.field("instructions", pa.list_(pa.int64()))])

# Where an alternative comes from: another row of the corpus or the pool file; a generator, from the row's input.
RETRIEVED, WRITTEN_ANEW = "retrieved", "generated"

# One row per query (distinct instruction, has input, task): candidate rows of the pool, best first.
_QUERY = [pa.field("instruction_row", pa.int64()), pa.field("has_input", pa.bool_()), pa.field("task", pa.string())]
_RANKED = [
    pa.field("similarities", pa.list_(pa.float32())),
    pa.field("complete", pa.bool_()),
    pa.field("paraphrases_skipped", pa.int32()),
]
NEIGHBOURS = pa.schema([*_QUERY, pa.field("candidates", pa.list_(pa.int64())), *_RANKED])

# What retrieval knows of each query: beside its candidates, the cluster of its instruction, and where on the axis of costs the
# rows of the instruction begin and end.
QUERIES = pa.schema(
    [*NEIGHBOURS, pa.field("cluster", pa.int32()), pa.field("first", pa.int64()), pa.field("last", pa.int64())]
)

# What encoding needs to know of the queries of one block: the texts of their candidates. `embedding`: of the instruction, where
# instructions are written for inputs, else null.
OFFERS = pa.schema(
    [
        *_QUERY,
        pa.field("candidates", pa.list_(pa.string())),
        *_RANKED,
        pa.field("cluster", pa.int32()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)

# Rows in scoring order. A duplicate keeps its place and source, and no text, so that it is counted where it ends.
PLACED = pa.schema(
    [
        *ADMITTED,
        pa.field("duplicate", pa.bool_()),
        pa.field("place", pa.int64()),
        pa.field("instruction_row", pa.int64()),
    ]
)

# Rows with the token ids of all prompts and targets that may be scored; never stored, from one stage straight to the next.
ENCODED = pa.schema(
    [
        pa.field("id", pa.string()),
        _SOURCE,
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        *_TEXT,
        pa.field("n_prompt_tokens", pa.int32()),
        pa.field("paraphrases_skipped", pa.int32()),
        pa.field("input_truncated", pa.bool_()),
        pa.field("cluster", pa.int32()),  # of its instruction, by meaning
        pa.field("pair_key", pa.binary(16)),
        pa.field("prompt", pa.list_(pa.int32())),
        pa.field("target", pa.list_(pa.int32())),
        pa.field(
            "alternatives",
            pa.list_(
                pa.struct(
                    [
                        pa.field("instruction", pa.string()),
                        pa.field("origin", pa.string()),
                        pa.field("similarity", pa.float32()),
                        pa.field("prompt", pa.list_(pa.int32())),
                    ]
                )
            ),
        ),
    ]
)

# A pair that was scored: the group of rows that asks for it, a digest of its token ids, target ids, sum of log-probabilities.
STORED = pa.schema(
    [
        pa.field("group", pa.binary(16)),
        pa.field("pair", pa.binary(16)),
        pa.field("tokens", pa.int32()),
        pa.field("sum", pa.float64()),
    ]
)

# `loglik_mean` is null where a bounded selection did not need it.
ALTERNATIVE = pa.struct(
    [
        pa.field("instruction", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("similarity", pa.float32()),
        pa.field("loglik_mean", pa.float64()),
    ]
)
LIKELIHOODS = pa.schema(
    [
        pa.field("id", pa.string()),
        _SOURCE,
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        *_TEXT,
        pa.field("n_prompt_tokens", pa.int32()),
        pa.field("n_target_tokens", pa.int32()),
        pa.field("loglik_sum", pa.float64()),
        pa.field("loglik_mean", pa.float64()),
        pa.field("loglik_empty_mean", pa.float64()),
        pa.field("n_alternatives", pa.int32()),
        pa.field("paraphrases_skipped", pa.int32()),
        pa.field("input_truncated", pa.bool_()),
        pa.field("cluster", pa.int32()),
        pa.field("alternatives", pa.list_(ALTERNATIVE)),
    ]
)
SCORE_COLUMNS = pa.schema(
    [
        pa.field("tss", pa.float64()),
        pa.field("tss_nce", pa.float64()),
        pa.field("tss_pp", pa.float64()),
        pa.field("tss_pp_bound", pa.float64()),  # an upper bound, where a bounded selection left tss_pp null
        pa.field("rank", pa.int32()),
        pa.field("ppl", pa.float64()),
        pa.field("ifd", pa.float64()),
        pa.field("ifd_loss", pa.float64()),
        pa.field("length", pa.int32()),  # tokens of the output, as n_target_tokens: a selector that needs no model
        pa.field("random", pa.float64()),  # of the id and the seed alone: the selector that any other has to beat
        pa.field("weight", pa.float64()),  # of the loss of the row, for training on all rows; 1 on average
    ]
)
SCORED = pa.schema([*LIKELIHOODS, *SCORE_COLUMNS])
SELECTED = pa.schema([*SCORED, pa.field("selection_rank", pa.int64())])


def with_origins(table: pa.Table) -> pa.Table:
    """Rows whose alternatives say where they come from: those of a release that only retrieved them do not say it yet."""
    column = table["alternatives"]
    if column.type.value_type.get_field_index("origin") >= 0:
        return table
    rows = [
        None if row is None else [{**alternative, "origin": RETRIEVED} for alternative in row]
        for row in column.to_pylist()
    ]
    place = table.column_names.index("alternatives")
    return table.set_column(place, "alternatives", pa.array(rows, pa.list_(ALTERNATIVE)))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns of `schema`, cast where that loses nothing.

    Raises ValueError that names every missing and every extra column.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    extra = [name for name in table.column_names if name not in schema.names]
    if missing or extra:
        raise ValueError(f"stage boundary: missing columns {missing}, unexpected columns {extra}")
    return table.select(schema.names).cast(schema)


def of_earlier_release(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` from a table that an earlier release wrote: what it did not have is null, also in structs."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type) for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)


def from_rows(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of `schema` from row dicts, none of which may have other keys."""
    for row in rows:
        if row.keys() - set(schema.names):
            raise ValueError(f"stage boundary: unexpected columns {sorted(row.keys() - set(schema.names))}")
    return pa.Table.from_pylist(rows, schema=schema)
