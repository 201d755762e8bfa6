"""Stages 2 to 4: distinct instructions, their embeddings, and for every way in which rows ask, the ranked alternatives."""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.alternatives import Pool, distinct_instructions, instruction_key, merge_instructions
from operators.embedder import embed_folded, load_embedder
from operators.order import neighbourhood_order, shared_order
from operators.schema import EMBEDDINGS, INSTRUCTIONS, NEIGHBOURS, from_rows
from pipeline.errors import BadRequest
from pipeline.parts import Record, read_part, record_table, write_part

_COLUMNS = ["instruction_key", "instruction", "input", "task", "n_prompt_tokens", "n_target_tokens"]
SPARE = 2  # candidates kept per query, as a multiple of k: an alternative may prove too long for a row


def instructions_of_part(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the INSTRUCTIONS of each admitted part."""
    return record_table(
        write_part(f"{work}/instructions", distinct_instructions(read_part(json.loads(text), _COLUMNS)), INSTRUCTIONS)
        for text in batch["item"].to_pylist()
    )


def build_table(parts: list[Record], index: str, pool_texts: list[str] | None) -> Record:
    """Merge all INSTRUCTIONS into `instructions.parquet`, sorted by key; a pool file's replace the run's as the pool."""
    table = merge_instructions(read_part(part) for part in parts)
    if pool_texts is not None:
        table = table.set_column(table.column_names.index("in_pool"), "in_pool", pa.array([False] * len(table)))
        extra = [
            {"key": instruction_key(text), "text": text, "in_pool": True, "tokens": 0, "uses": []}
            for text in pool_texts
        ]
        table = merge_instructions([table, from_rows(extra, INSTRUCTIONS)])
    Path(index).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, f"{index}/instructions.parquet")
    return {
        "instructions": len(table),
        "pool": sum(table["in_pool"].to_pylist()),
        "tokens": sum(table["tokens"].to_pylist()),
    }


class EmbedRange:
    """Actor: embeddings of ranges of instructions. Ranges are cut from the sorted table, so what shares a batch never
    depends on the order of rows, on blocks or on actors."""

    def __init__(self, *, work: str, index: str, model: str, batch_size: int, threads: int):
        import torch

        torch.set_num_threads(threads)
        self._work = work
        self._texts = pq.read_table(f"{index}/instructions.parquet", columns=["text"])["text"]
        self._embedder = load_embedder(model, batch_size)

    def __call__(self, batch: pa.Table) -> pa.Table:
        records = []
        for item in map(json.loads, batch["item"].to_pylist()):
            start, stop = item["start"], item["stop"]
            vectors = embed_folded(self._embedder, self._texts[start:stop].to_pylist())
            rows = pa.table({"row": np.arange(start, stop), "embedding": list(vectors)})
            records.append({**write_part(f"{self._work}/embeddings", rows, EMBEDDINGS), "start": start})
        return record_table(records)


def build_matrix(parts: list[Record], index: str) -> None:
    """All embeddings as one `embeddings.npy`, rows as in the table, which every worker of a machine maps and shares."""
    ordered = sorted(parts, key=lambda part: part["start"])
    blocks = [np.stack(read_part(part)["embedding"].to_numpy()).astype(np.float32) for part in ordered]
    np.save(f"{index}/embeddings.npy", np.concatenate(blocks), allow_pickle=False)


@lru_cache(maxsize=1)
def cached_pool(index: str, paraphrase_max: float, same_task: str) -> Pool:
    """The pool of this worker process."""
    return Pool(
        pq.read_table(f"{index}/instructions.parquet"),
        np.load(f"{index}/embeddings.npy", mmap_mode="r", allow_pickle=False),
        paraphrase_max=paraphrase_max,
        same_task=same_task,
    )


@lru_cache(maxsize=1)
def cached_neighbours(index: str) -> pa.Table:
    """The NEIGHBOURS of this worker process; a row's `query_row` is its row here."""
    return pq.read_table(f"{index}/neighbours.parquet")


def neighbours_of_range(batch: pa.Table, *, work: str, pool: dict[str, Any], k: int) -> pa.Table:
    """Write the NEIGHBOURS of ranges of instructions."""
    records = []
    for item in map(json.loads, batch["item"].to_pylist()):
        table = cached_pool(**pool).neighbours(item["start"], item["stop"], SPARE * k)
        records.append({**write_part(f"{work}/neighbours", table, NEIGHBOURS), "start": item["start"]})
    return record_table(records)


def build_neighbours(parts: list[Record], index: str, k: int, blocks: int) -> None:
    """All NEIGHBOURS as one table, in the order of the instructions; and in `order.npy` the order in which rows of the
    instructions are to stand in so many scoring blocks."""
    ordered = sorted(parts, key=lambda part: part["start"])
    table = pa.concat_tables([read_part(part) for part in ordered])
    pq.write_table(table, f"{index}/neighbours.parquet")
    tokens = pq.read_table(f"{index}/instructions.parquet", columns=["tokens"])["tokens"].to_numpy()
    asked: list[list[int]] = [[row] for row in range(len(tokens))]
    for row, candidates in zip(table["instruction_row"].to_pylist(), table["candidates"].to_pylist(), strict=True):
        asked[row] += candidates[:k]
    base = neighbourhood_order(np.load(f"{index}/embeddings.npy", mmap_mode="r", allow_pickle=False))
    order = shared_order(base, [np.unique(one) for one in asked], tokens, -(-int(tokens.sum()) // blocks))
    np.save(f"{index}/order.npy", order, allow_pickle=False)


def read_pool_file(path: str) -> list[str]:
    """Instructions of a pool file: the lines of .txt, the column `instruction` of the other kinds; raises BadRequest."""
    key = f"alternatives.pool: {path!r}"
    try:
        match Path(path).suffix.lower():
            case ".txt":
                texts = Path(path).read_text(encoding="utf-8").splitlines()
            case ".jsonl":
                texts = [
                    json.loads(line)["instruction"]
                    for line in Path(path).read_text(encoding="utf-8").splitlines()
                    if line.strip()
                ]
            case ".csv":
                with Path(path).open(encoding="utf-8-sig", newline="") as file:
                    texts = [row["instruction"] for row in csv.DictReader(file)]
            case ".parquet":
                texts = pq.read_table(path, columns=["instruction"])["instruction"].to_pylist()
            case _:
                raise BadRequest(
                    f"{key}: unknown kind of file; accepted: .txt, .jsonl, .csv, .parquet with a column instruction"
                )
    except FileNotFoundError as error:
        raise BadRequest(f"{key}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise BadRequest(f"{key}: cannot be read as instructions: {type(error).__name__} {error}") from error
    texts = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts:
        raise BadRequest(f"{key}: holds no instruction")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise BadRequest(f"{key}: holds a lone surrogate, which is no text")
    return texts
