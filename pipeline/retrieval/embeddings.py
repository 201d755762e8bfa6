"""Embeddings of the distinct instructions: stored ones are recalled, an actor pool computes the missing ones."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from operators.error_text import first_line
from operators.retrieval.embedder import Embedder, embed_folded, load_embedder
from operators.schema import EMBEDDINGS
from pipeline.engine.attempts import Attempts, Died, GivenUp, at_most, halve_by_deaths, this_actor
from pipeline.engine.job import Job, execute, in_actors, items, once
from pipeline.engine.resources import no_more_than, threads_here
from pipeline.retrieval.index import RowRange, generated_index, ranges_of
from pipeline.storage import computed, urls
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.computed import GENERATED
from pipeline.storage.parts import read_table
from pipeline.storage.records import record_table, records_of

EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
SHOWN_CHARS = 200  # of an instruction that cannot be embedded


class EmbeddedRange(NamedTuple):
    """The part of the store that holds the embeddings of the missing instructions from `start` on."""

    start: int
    path: str


def embed_instructions(job: Job, embeddings: str, version: str, *, generated: bool = False) -> None:
    """Write one array of all embeddings, computing those that the store's folder `embeddings` does not hold yet: of the
    instructions of the run, or of those that were generated."""
    config = job.config
    index = generated_index(job.index) if generated else job.index
    folder = urls.join(embeddings, job.run)
    stored = [(run, path) for run, path, _ in computed.by_run(embeddings) if not job.fresh and run != job.run]
    missing: int = once("embed", recall_embeddings, stored, index, job.work)
    ranges = ranges_of(missing, EMBED_BATCHES * config.embedder.batch_size)
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": index,
            "folder": urls.join(folder, GENERATED) if generated else folder,
            "a_node": job.pools.embedders_a_node,
            "embedder": {**config.embedder.model_dump(), "version": version},
        }
        embedded = []
        if ranges:
            dataset = in_actors(items(ranges), EmbedRange, kwargs, no_more_than(job.pools.embedders, len(ranges)))
            embedded = execute("embed", EmbeddedRange, dataset, lambda record: stage.advance())
        once("embed", build_matrix, embedded, index)
        stage.advance(0, f"{missing:,} new instructions")


def recall_embeddings(paths: list[tuple[str, str]], index: str, work: str) -> int:
    """Which instructions of the table have an embedding in parts (run, path) of the store; how many have none.

    Of two embeddings of one instruction the newest run's is taken.
    """
    keys = read_table(f"{index}/instructions.parquet", ["key"])["key"].to_pylist()
    rows = {key: row for row, key in enumerate(keys)}
    vectors: dict[int, np.ndarray] = {}
    ordered = [path for _, path in sorted(paths, reverse=True)]
    for _, table in computed.undamaged(ordered, work, EMBEDDINGS):
        for key, vector in zip(table["key"].to_pylist(), table["embedding"].to_numpy(), strict=True):
            row = rows.get(key)
            if row is not None:
                vectors.setdefault(row, vector)
    recalled = sorted(vectors)
    missing = np.setdiff1d(np.arange(len(keys)), np.array(recalled, dtype=np.int64))
    matrix = np.stack([vectors[row] for row in recalled]) if recalled else np.zeros((0, 0), dtype=np.float32)
    save_array(f"{index}/missing.arrow", missing)
    save_array(f"{index}/recalled.arrow", matrix.astype(np.float32))
    return len(missing)


class EmbedRange:
    """Actor: embeddings of ranges of the missing instructions, written to the store.

    Ranges are cut from the sorted table, so what shares a batch never depends on the order of rows, on blocks or on actors; a
    range that this run has stored before it was interrupted is taken as it is.
    """

    # A range whose process died is tried again as a whole: machines fail. Then it is halved at each death, down to one text.
    whole_tries, alone_tries = 3, 2
    _name = "embed"

    def __init__(self, *, work: str, index: str, folder: str, embedder: dict[str, Any], a_node: int):
        self._work, self._folder, self._settings, self._a_node = work, folder, embedder, a_node
        if urls.name_of(folder) == GENERATED:
            self._name = f"embed-{GENERATED}"  # marks of deaths are not those of the run's own instructions
        table = read_table(f"{index}/instructions.parquet", ["key", "text"])
        self._table = table.take(pa.array(load_array(f"{index}/missing.arrow")))

    @cached_property
    def _embedder(self) -> Embedder:
        import torch

        torch.set_num_threads(threads_here(self._a_node))
        with at_most(self._work, f"load-{this_actor()}", "loading the embedder"):
            return load_embedder(**self._settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(self._range(rows.start, rows.stop) for rows in records_of(RowRange, batch))

    def _range(self, start: int, stop: int) -> EmbeddedRange:
        folder = urls.join(self._folder, f"range-{start:09d}")
        for path, table in computed.undamaged((path for path, _ in computed.parts(folder)), self._work, EMBEDDINGS):
            if table["key"].equals(self._table["key"][start:stop]):
                return EmbeddedRange(start, path)
        rows = pa.table({"key": self._table["key"][start:stop], "embedding": list(self._embed(start, stop))})
        return EmbeddedRange(start, computed.write(folder, rows, EMBEDDINGS))

    def _embed(self, start: int, stop: int) -> np.ndarray:
        """Float32 [stop - start, D]. Raises BrokenEmbedder or GivenUp, with the instruction that the embedder fails on or that
        ends its process, if it is only one."""
        attempts, embedder = Attempts(self._work, f"{self._name}-{start}"), self._embedder

        def attempt(rows: range, name: str) -> np.ndarray:
            with attempts.trying(name):
                return embed_folded(embedder, self._table["text"][rows.start : rows.stop].to_pylist())

        def alone(row: int, error: Exception) -> np.ndarray:
            shown = _shown(self._table["text"][row].as_py())
            if isinstance(error, Died):
                raise GivenUp(f"the embedder's process ends each time it embeds this instruction: {shown}")
            raise BrokenEmbedder(f"the embedder fails on this instruction: {shown} ({_words(error)})") from error

        def excuse(error: Exception) -> None:
            try:
                embed_folded(embedder, ["Sort the words."])
            except Exception as problem:
                raise BrokenEmbedder(f"the embedder fails on everything since {_words(error)}") from problem

        tries = self.whole_tries, self.alone_tries
        return np.concatenate(
            halve_by_deaths(range(start, stop), attempts.counts(), attempt, alone, excuse, tries=tries)
        )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _shown(text: str) -> str:
    """An instruction and what to do about it, for a message."""
    return f"{text[:SHOWN_CHARS]!r}, of {len(text):,} characters; take its rows out of the input, or set another embedder.model"


class BrokenEmbedder(RuntimeError):
    """An embedder that fails on an instruction, or on everything."""


def build_matrix(embedded: list[EmbeddedRange], index: str) -> None:
    """All embeddings as one array, rows as in the table."""
    missing, recalled = load_array(f"{index}/missing.arrow"), load_array(f"{index}/recalled.arrow")
    new = [np.stack(computed.read(path, EMBEDDINGS)["embedding"].to_numpy()) for _, path in sorted(embedded)]
    width = new[0].shape[1] if new else recalled.shape[1]
    matrix = np.zeros((len(missing) + len(recalled), width), dtype=np.float32)
    if new:
        matrix[missing] = np.concatenate(new)
    matrix[np.setdiff1d(np.arange(len(matrix)), missing)] = recalled.reshape(len(recalled), width)
    save_array(f"{index}/embeddings.arrow", matrix)
