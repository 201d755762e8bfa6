"""What retrieval knows of queries, QUERIES: their candidates, and where on the axis of costs the rows of an instruction
stand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.retrieval.prompt_order import neighbourhood_order, shared_order
from operators.schema import QUERIES, conform


def place_queries(
    neighbours: pa.Table,
    rows_P: np.ndarray,
    embeddings_PD: np.ndarray,
    tokens_P: np.ndarray,
    clusters_P: np.ndarray,
    *,
    k: int,
    width: int,
    begin: int = 0,
) -> pa.Table:
    """QUERIES of the NEIGHBOURS of some instructions, which are these rows of the table of all and whose rows have so many
    tokens.

    The instructions stand on the axis of costs from `begin` on, in an order in which those that share prompts meet in blocks of
    `width` tokens."""
    by_row = np.argsort(rows_P)
    instructions = by_row[np.searchsorted(rows_P[by_row], neighbours["instruction_row"].to_numpy())]
    prompts = [[row] for row in rows_P.tolist()]
    for instruction, candidates in zip(instructions.tolist(), neighbours["candidates"].to_pylist(), strict=True):
        prompts[instruction] += candidates[:k]
    base = neighbourhood_order(embeddings_PD.astype(np.float32, copy=False))
    order = shared_order(base, [np.unique(rows) for rows in prompts], tokens_P, width, begin)
    last = np.zeros(len(rows_P), dtype=np.int64)
    last[order] = begin + np.cumsum(tokens_P[order])
    columns = {
        "cluster": pa.array(clusters_P[instructions], pa.int32()),
        "first": pa.array((last - tokens_P)[instructions]),
        "last": pa.array(last[instructions]),
    }
    for name, column in columns.items():
        neighbours = neighbours.append_column(name, column)
    return conform(neighbours, QUERIES)


def query_labels(rows: pa.Table) -> pa.Array:
    """A text for each row of a table with instruction_row, has_input and task, equal where these are."""
    task = pc.fill_null(pc.binary_join_element_wise("=", rows["task"], ""), "")
    kind = pc.if_else(rows["has_input"], "+", "-")
    return pc.binary_join_element_wise(rows["instruction_row"].cast(pa.string()), kind, task, "")


def find_queries(asked: pa.Table, known: pa.Table) -> pa.Table:
    """The row of `known` for each row of `asked`, by instruction_row, has_input and task."""
    labels = query_labels(known)
    values = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    return known.take(pc.index_in(query_labels(asked), value_set=values))
