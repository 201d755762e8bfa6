"""Stages 2 to 4: distinct instructions, their embeddings, and for every way in which rows ask, the ranked alternatives."""

from __future__ import annotations

import csv
import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.alternatives import Pool, distinct_instructions, instruction_key, merge_instructions
from operators.embedder import Embedder, embed_folded, load_embedder
from operators.order import neighbourhood_order, shared_order
from operators.schema import EMBEDDINGS, INSTRUCTIONS, NEIGHBOURS, from_rows
from operators.text import first_line
from pipeline import storage, store
from pipeline.attempts import Attempts, GivenUp, at_most, pieces, this_actor
from pipeline.errors import BadRequest
from pipeline.parts import Record, read_part, read_table, record_table, write_part, write_table
from pipeline.resources import threads_here
from pipeline.rows import MAX_ROW_BYTES
from pipeline.storage import load_array, save_array

_COLUMNS = ["instruction_key", "instruction", "input", "task", "n_prompt_tokens", "n_target_tokens"]
SHOWN_CHARS = 200  # of an instruction that cannot be embedded
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
    write_table(f"{index}/instructions.parquet", table)
    return {
        "instructions": len(table),
        "pool": sum(table["in_pool"].to_pylist()),
        "tokens": sum(table["tokens"].to_pylist()),
    }


def recall_embeddings(paths: list[tuple[str, str]], index: str, work: str) -> Record:
    """Which instructions of the table have an embedding in parts (run, path) of the store; the others are `missing.npy`.

    Of two embeddings of one instruction the newest run's is taken. The record says how many are missing.
    """
    keys = read_table(f"{index}/instructions.parquet", ["key"])["key"].to_pylist()
    rows = {key: row for row, key in enumerate(keys)}
    found: dict[int, np.ndarray] = {}
    ordered = [path for _, path in sorted(paths, reverse=True)]
    for _, table in store.sound(ordered, work, EMBEDDINGS):
        for key, vector in zip(table["key"].to_pylist(), table["embedding"].to_numpy(), strict=True):
            row = rows.get(key)
            if row is not None:
                found.setdefault(row, vector)
    known = sorted(found)
    missing = np.setdiff1d(np.arange(len(keys)), np.array(known, dtype=np.int64))
    vectors = np.stack([found[row] for row in known]) if known else np.zeros((0, 0), dtype=np.float32)
    save_array(f"{index}/missing.npy", missing)
    save_array(f"{index}/recalled.npy", vectors.astype(np.float32))
    return {"missing": len(missing)}


class EmbedRange:
    """Actor: embeddings of ranges of the missing instructions, written to the store.

    Ranges are cut from the sorted table, so what shares a batch never depends on the order of rows, on blocks or on actors; a
    range that this run has stored before it was interrupted is taken as it is.
    """

    # A range whose process died is tried again as a whole: machines fail. Then it is halved at each death, down to one text.
    whole_tries, alone_tries = 3, 2

    def __init__(self, *, work: str, index: str, folder: str, embedder: dict[str, Any], a_node: int):
        self._work, self._folder, self._settings, self._a_node = work, folder, embedder, a_node
        table = read_table(f"{index}/instructions.parquet", ["key", "text"])
        self._table = table.take(pa.array(load_array(f"{index}/missing.npy")))

    @cached_property
    def _embedder(self) -> Embedder:
        import torch

        torch.set_num_threads(threads_here(self._a_node))
        with at_most(self._work, f"load-{this_actor()}", "loading the embedder"):
            return load_embedder(**self._settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(self._range(json.loads(text)) for text in batch["item"].to_pylist())

    def _range(self, item: Record) -> Record:
        start, stop = item["start"], item["stop"]
        folder = storage.join(self._folder, f"range-{start:09d}")
        for path, table in store.sound((path for path, _ in store.parts(folder)), self._work, EMBEDDINGS):
            if table["key"].equals(self._table["key"][start:stop]):
                return {"path": path, "start": start}
        rows = pa.table({"key": self._table["key"][start:stop], "embedding": list(self._embed(start, stop))})
        return {"path": store.write(folder, rows, EMBEDDINGS), "start": start}

    def _embed(self, start: int, stop: int) -> np.ndarray:
        """Float32 [stop - start, D]. Instructions that have ended a process together are embedded in halves; raises GivenUp for
        one that does so alone."""
        attempts, embedder, found = Attempts(self._work, f"embed-{start}"), self._embedder, []
        for first, last, hope in pieces(start, stop, attempts.counts(), self.whole_tries, self.alone_tries):
            texts = self._table["text"][first:last].to_pylist()
            if not hope:
                raise GivenUp(f"the embedder's process ends each time it embeds this instruction: {_shown(texts[0])}")
            with attempts.trying(f"{first}-{last}"):
                found.append(_embed_in_halves(embedder, texts))
        return np.concatenate(found)


def _embed_in_halves(embedder: Embedder, texts: list[str]) -> np.ndarray:
    """Float32 [N, D]; raises BrokenEmbedder, which names the instruction that the embedder fails on, if it is only one."""
    try:
        return embed_folded(embedder, texts)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        if len(texts) == 1:
            raise BrokenEmbedder(f"the embedder fails on this instruction: {_shown(texts[0])} ({said})") from error
        try:
            embed_folded(embedder, ["Sort the words."])
        except Exception as problem:
            raise BrokenEmbedder(f"the embedder fails on everything since {said}") from problem
    middle = len(texts) // 2
    return np.concatenate([_embed_in_halves(embedder, half) for half in (texts[:middle], texts[middle:])])


def _shown(text: str) -> str:
    """An instruction and what to do about it, for a message."""
    return f"{text[:SHOWN_CHARS]!r}, of {len(text):,} characters; take its rows out of the input, or set another embedder.model"


class BrokenEmbedder(RuntimeError):
    """An embedder that fails on an instruction, or on everything."""


def build_matrix(parts: list[Record], index: str) -> None:
    """All embeddings as one `embeddings.npy`, rows as in the table, which every worker of a machine maps and shares."""
    missing, recalled = load_array(f"{index}/missing.npy"), load_array(f"{index}/recalled.npy")
    ordered = sorted(parts, key=lambda part: part["start"])
    new = [np.stack(store.read(part["path"], EMBEDDINGS)["embedding"].to_numpy()) for part in ordered]
    width = new[0].shape[1] if new else recalled.shape[1]
    matrix = np.zeros((len(missing) + len(recalled), width), dtype=np.float32)
    if new:
        matrix[missing] = np.concatenate(new)
    matrix[np.setdiff1d(np.arange(len(matrix)), missing)] = recalled.reshape(-1, width)
    save_array(f"{index}/embeddings.npy", matrix)


@lru_cache(maxsize=1)
def cached_pool(index: str, paraphrase_max: float, same_task: str) -> Pool:
    """The pool of this worker process."""
    return Pool(
        read_table(f"{index}/instructions.parquet"),
        load_array(f"{index}/embeddings.npy"),
        paraphrase_max=paraphrase_max,
        same_task=same_task,
    )


@lru_cache(maxsize=1)
def cached_neighbours(index: str) -> pa.Table:
    """The NEIGHBOURS of this worker process; a row's `query_row` is its row here."""
    return read_table(f"{index}/neighbours.parquet")


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
    write_table(f"{index}/neighbours.parquet", table)
    tokens = read_table(f"{index}/instructions.parquet", ["tokens"])["tokens"].to_numpy()
    asked: list[list[int]] = [[row] for row in range(len(tokens))]
    for row, candidates in zip(table["instruction_row"].to_pylist(), table["candidates"].to_pylist(), strict=True):
        asked[row] += candidates[:k]
    base = neighbourhood_order(load_array(f"{index}/embeddings.npy"))
    order = shared_order(base, [np.unique(one) for one in asked], tokens, -(-int(tokens.sum()) // blocks))
    save_array(f"{index}/order.npy", order)


def read_pool_file(path: str) -> list[str]:
    """Instructions of a pool file: the lines of .txt, the column `instruction` of the other kinds; raises BadRequest."""
    if storage.is_url(path):  # not shown: it may hold credentials
        raise BadRequest(
            "alternatives.pool: a URL; accepted: a file where the command runs, .txt, .jsonl, .csv or .parquet"
        )
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
                csv.field_size_limit(MAX_ROW_BYTES)  # as for rows
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
