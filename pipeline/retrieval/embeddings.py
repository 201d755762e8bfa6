"""Embeddings of the distinct instructions: stored ones are recalled, an actor pool computes the missing ones."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.error_text import first_line
from operators.retrieval.embedder import LEXICAL, Embedder, embed_folded, load_embedder
from operators.schema import EMBEDDINGS, conform
from pipeline.engine.attempts import Attempts, Died, GivenUp, at_most, halve_by_deaths, this_actor
from pipeline.engine.job import Job, execute, in_actors, items, mapped, over_parts, stream
from pipeline.engine.light_pass import are_small, pass_here
from pipeline.engine.resources import no_more_than, threads_here
from pipeline.retrieval.shards import (
    RowRange,
    Shards,
    embeddings_path,
    in_shards,
    instructions_path,
    ranges_of,
    shards_of_keys,
)
from pipeline.storage import computed, urls
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.computed import GENERATED
from pipeline.storage.parts import read_table
from pipeline.storage.records import record_table, records_of

EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
SHOWN_CHARS = 200  # of an instruction that cannot be embedded
_STORED = pa.schema([pa.field("shard", pa.int64()), pa.field("run", pa.string()), *EMBEDDINGS])


class MissingEmbeddings(NamedTuple):
    """How many instructions of a shard the store has no embedding of."""

    shard: int
    missing: int


class EmbeddedRange(NamedTuple):
    """The part of the store that holds the embeddings of a shard's missing instructions from `start` on."""

    shard: int
    start: int
    path: str


class EmbeddedShard(NamedTuple):
    """The parts that hold the embeddings of a shard's missing instructions, in order, and whether others were recalled."""

    shard: int
    paths: list[str]
    recalled: bool


class StoredPart(NamedTuple):
    """A part of the store, and the run that wrote it."""

    run: str
    path: str


def embed_instructions(job: Job, shards: Shards, embeddings: str, version: str, *, generated: bool = False) -> None:
    """Write the embeddings of each shard, computing those that the store's folder `embeddings` does not hold yet: of the
    instructions of the run, or of those that were generated."""
    config = job.config
    folder = urls.join(embeddings, job.run)
    stored = [part for part in computed.by_run(embeddings) if not job.fresh and part[0] != job.run]
    missing = _recall(job, shards, stored) if stored else {}
    ranges = [
        rows
        for shard in shards.used()
        for rows in ranges_of(
            missing.get(shard, shards.sizes[shard]), EMBED_BATCHES * config.embedder.batch_size, shard
        )
    ]
    with job.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": job.work,
            "index": shards.index,
            "folder": urls.join(folder, GENERATED) if generated else folder,
            "recalled": sorted(missing),
            "a_node": job.pools.embedders_a_node,
            "embedder": {**config.embedder.model_dump(), "version": version},
        }
        parts: dict[int, list[str]] = {shard: [] for shard in shards.used()}
        if ranges:
            dataset = in_actors(items(ranges), EmbedRange, kwargs, no_more_than(job.pools.embedders, len(ranges)))
            for record in sorted(execute("embed", EmbeddedRange, dataset, lambda record: stage.advance())):
                parts[record.shard].append(record.path)
        embedded = [EmbeddedShard(shard, paths, shard in missing) for shard, paths in parts.items()]
        if are_small(len(embedded), 0, shards.rows):
            list(pass_here("embed", int, embedded, write_embeddings, index=shards.index))
        else:
            execute("embed", int, mapped(items(embedded), write_embeddings, fn_kwargs={"index": shards.index}))
        stage.advance(
            0, f"{sum(missing.get(shard, shards.sizes[shard]) for shard in shards.used()):,} new instructions"
        )


def _recall(job: Job, shards: Shards, stored: list[tuple[str, str, int]]) -> dict[int, int]:
    """By shard of which the store holds something: how many instructions it does not hold."""
    count, parts = len(shards.sizes), [StoredPart(run, path) for run, path, _ in stored]
    if count == 1 and are_small(len(stored), sum(size for _, _, size in stored)):
        kwargs: dict[str, Any] = {"work": job.work, "index": shards.index}
        missing = pass_here("embed", MissingEmbeddings, parts, recall_here, **kwargs)
    else:
        divided = in_shards(over_parts(parts, stored_embeddings, work=job.work, count=count), "shard", count)
        recalled = mapped(divided, recall_embeddings, fn_kwargs={"index": shards.index})
        missing = stream("embed", MissingEmbeddings, recalled)
    return {record.shard: record.missing for record in missing}


def recall_here(batch: pa.Table, *, work: str, index: str) -> pa.Table:
    """As `recall_embeddings`, of the only shard, where these parts are all that is stored."""
    return recall_embeddings(pa.concat_tables(stored_embeddings(batch, work=work, count=1)), index=index)


def stored_embeddings(batch: pa.Table, *, work: str, count: int) -> Iterable[pa.Table]:
    """Stored embeddings (key, run, embedding) with the shard that each belongs to."""
    yield _STORED.empty_table()
    for part in records_of(StoredPart, batch):
        for _, table in computed.undamaged([part.path], work, EMBEDDINGS):
            columns = {
                "shard": pa.array(shards_of_keys(table["key"], count)),
                "run": pa.array([part.run] * len(table), pa.string()),
                **{name: table[name] for name in EMBEDDINGS.names},
            }
            yield conform(pa.table(columns), _STORED)


def recall_embeddings(batch: pa.Table, *, index: str) -> pa.Table:
    """Write which instructions of a shard have a stored embedding, and these; of two of one instruction the newest run's."""
    if not len(batch):
        return record_table([])
    shard = batch["shard"][0].as_py()
    keys = read_table(instructions_path(index, shard), ["key"])["key"]
    known = batch.filter(pc.is_in(batch["key"], value_set=keys.combine_chunks()))
    newest = computed.newest(known, ["key"]) if len(known) else known
    places = pc.index_in(newest["key"], value_set=keys.combine_chunks()).to_numpy().astype(np.int64)
    vectors = matrix_of(newest["embedding"])[np.argsort(places)]
    missing = np.setdiff1d(np.arange(len(keys)), places)
    save_array(_missing_path(index, shard), missing)
    save_array(_recalled_path(index, shard), vectors)
    return record_table([MissingEmbeddings(shard, len(missing))])


def matrix_of(column: pa.ChunkedArray) -> np.ndarray:
    """Float32 [N, D]: a column of lists of one length."""
    flat = column.combine_chunks().flatten().to_numpy().astype(np.float32)
    return np.asarray(flat.reshape(len(column), len(flat) // len(column) if len(column) else 0))


def _missing_path(index: str, shard: int) -> str:
    return urls.join(index, "missing", f"{shard:05d}.arrow")


def _recalled_path(index: str, shard: int) -> str:
    return urls.join(index, "recalled", f"{shard:05d}.arrow")


class EmbedRange:
    """Actor: embeddings of ranges of the missing instructions, written to the store.

    Ranges are cut from the sorted table, so what shares a batch never depends on the order of rows, on blocks or on actors; a
    range that this run has stored before it was interrupted is taken as it is.
    """

    # A range whose process died is tried again as a whole: machines fail. Then it is halved at each death, down to one text.
    whole_tries, alone_tries = 3, 2
    _name = "embed"

    def __init__(
        self, *, work: str, index: str, folder: str, recalled: list[int], embedder: dict[str, Any], a_node: int
    ):
        self._work, self._folder, self._settings, self._a_node = work, folder, embedder, a_node
        self._index, self._recalled = index, recalled
        if urls.name_of(folder) == GENERATED:
            self._name = f"embed-{GENERATED}"  # marks of deaths are not those of the run's own instructions
        self._shard: tuple[int, pa.Table] | None = None

    @cached_property
    def _embedder(self) -> Embedder:
        if self._settings["model"] != LEXICAL:  # which does without torch
            import torch

            torch.set_num_threads(threads_here(self._a_node))
        with at_most(self._work, f"load-{this_actor()}", "loading the embedder"):
            return load_embedder(**self._settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(self._range(rows) for rows in records_of(RowRange, batch))

    def _missing(self, rows: RowRange) -> pa.Table:
        """Key and text of the missing instructions of a range."""
        if self._shard is None or self._shard[0] != rows.shard:
            table = read_table(instructions_path(self._index, rows.shard), ["key", "text"])
            if rows.shard in self._recalled:
                table = table.take(pa.array(load_array(_missing_path(self._index, rows.shard))))
            self._shard = rows.shard, table
        return self._shard[1][rows.start : rows.stop]

    def _range(self, rows: RowRange) -> EmbeddedRange:
        folder = urls.join(self._folder, f"range-{rows.shard:05d}-{rows.start:09d}")
        wanted = self._missing(rows)
        for path, table in computed.undamaged((path for path, _ in computed.parts(folder)), self._work, EMBEDDINGS):
            if table["key"].equals(wanted["key"]):
                return EmbeddedRange(rows.shard, rows.start, path)
        vectors = self._embed(wanted["text"].to_pylist(), f"{rows.shard}-{rows.start}")
        stored = pa.table({"key": wanted["key"], "embedding": list(vectors)})
        return EmbeddedRange(rows.shard, rows.start, computed.write(folder, stored, EMBEDDINGS))

    def _embed(self, texts: list[str], name: str) -> np.ndarray:
        """Float32 [N, D]. Raises BrokenEmbedder or GivenUp, with the instruction that the embedder fails on or that ends its
        process, if it is only one."""
        attempts, embedder = Attempts(self._work, f"{self._name}-{name}"), self._embedder

        def attempt(rows: range, name: str) -> np.ndarray:
            with attempts.trying(name):
                vectors = embed_folded(embedder, texts[rows.start : rows.stop])
            if not np.isfinite(vectors).all():
                raise ValueError("an embedding holds numbers that are not finite")
            return vectors

        def alone(row: int, error: Exception) -> np.ndarray:
            shown = _shown(texts[row])
            if isinstance(error, Died):
                raise GivenUp(f"the embedder's process ends each time it embeds this instruction: {shown}")
            raise BrokenEmbedder(f"the embedder fails on this instruction: {shown} ({_words(error)})") from error

        def excuse(error: Exception) -> None:
            try:
                embed_folded(embedder, ["Sort the words."])
            except Exception as problem:
                raise BrokenEmbedder(
                    f"the embedder fails on everything since {_words(error)}; run again, or set another embedder.model"
                ) from problem

        tries = self.whole_tries, self.alone_tries
        return np.concatenate(
            halve_by_deaths(range(len(texts)), attempts.counts(), attempt, alone, excuse, tries=tries)
        )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _shown(text: str) -> str:
    """An instruction and what to do about it, for a message."""
    return f"{text[:SHOWN_CHARS]!r}, of {len(text):,} characters; take its rows out of the input, or set another embedder.model"


class BrokenEmbedder(RuntimeError):
    """An embedder that fails on an instruction, or on everything."""


def write_embeddings(batch: pa.Table, *, index: str) -> pa.Table:
    """Write all embeddings of shards, rows as in their tables."""
    records = list(records_of(EmbeddedShard, batch))
    for shard, paths, recalled in records:
        new = [matrix_of(computed.read(path, EMBEDDINGS)["embedding"]) for path in paths]
        if recalled:
            missing, old = load_array(_missing_path(index, shard)), load_array(_recalled_path(index, shard))
            matrix = np.zeros((len(missing) + len(old), new[0].shape[1] if new else old.shape[1]), dtype=np.float32)
            if new:
                matrix[missing] = np.concatenate(new)
            if len(old):
                matrix[np.setdiff1d(np.arange(len(matrix)), missing)] = old
        else:
            matrix = np.concatenate(new)
        save_array(embeddings_path(index, shard), matrix)
    return record_table(record.shard for record in records)
