"""Embeddings of the distinct instructions: stored ones are recalled, an actor pool computes the missing ones."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from operators.error_text import first_line
from operators.retrieval.embedder import Embedder, embed_folded, load_embedder
from operators.schema import EMBEDDINGS
from pipeline.engine.attempts import Attempts, GivenUp, at_most, pieces, this_actor
from pipeline.engine.job import Job, execute, in_actors, items, once
from pipeline.engine.resources import no_more_than, threads_here
from pipeline.retrieval.index import ranges_of
from pipeline.storage import computed, urls
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import Record, read_table, record_table

EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
SHOWN_CHARS = 200  # of an instruction that cannot be embedded


def embed_instructions(job: Job, embeddings: str, version: str) -> None:
    """Write one array of all embeddings, computing those that the store's folder `embeddings` does not hold yet."""
    config = job.config
    stored = [(run, path) for run, path, _ in computed.by_run(embeddings) if not job.fresh and run != job.run]
    recalled = once("embed", recall_embeddings, stored, job.index, job.work)
    ranges = ranges_of(recalled["missing"], EMBED_BATCHES * config.embedder.batch_size)
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": job.index,
            "folder": urls.join(embeddings, job.run),
            "a_node": job.pools.embedders_a_node,
            "embedder": {**config.embedder.model_dump(), "version": version},
        }
        parts = []
        if ranges:
            sizes = no_more_than(job.pools.embedders, len(ranges))
            dataset = in_actors(items(ranges), EmbedRange, kwargs, sizes)
            parts = execute("embed", dataset, lambda record: stage.advance())
        once("embed", build_matrix, parts, job.index)
        stage.advance(0, f"{recalled['missing']:,} new instructions")


def recall_embeddings(paths: list[tuple[str, str]], index: str, work: str) -> Record:
    """Which instructions of the table have an embedding in parts (run, path) of the store; the others are `missing.npy`.

    Of two embeddings of one instruction the newest run's is taken. The record says how many are missing.
    """
    keys = read_table(f"{index}/instructions.parquet", ["key"])["key"].to_pylist()
    rows = {key: row for row, key in enumerate(keys)}
    found: dict[int, np.ndarray] = {}
    ordered = [path for _, path in sorted(paths, reverse=True)]
    for _, table in computed.sound(ordered, work, EMBEDDINGS):
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
        folder = urls.join(self._folder, f"range-{start:09d}")
        for path, table in computed.sound((path for path, _ in computed.parts(folder)), self._work, EMBEDDINGS):
            if table["key"].equals(self._table["key"][start:stop]):
                return {"path": path, "start": start}
        rows = pa.table({"key": self._table["key"][start:stop], "embedding": list(self._embed(start, stop))})
        return {"path": computed.write(folder, rows, EMBEDDINGS), "start": start}

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
    new = [np.stack(computed.read(part["path"], EMBEDDINGS)["embedding"].to_numpy()) for part in ordered]
    width = new[0].shape[1] if new else recalled.shape[1]
    matrix = np.zeros((len(missing) + len(recalled), width), dtype=np.float32)
    if new:
        matrix[missing] = np.concatenate(new)
    matrix[np.setdiff1d(np.arange(len(matrix)), missing)] = recalled.reshape(-1, width)
    save_array(f"{index}/embeddings.npy", matrix)
