"""Alternatives that a generator writes: every distinct input once, what is stored recalled, the rest asked for.

What it answers is stored as it came, by the key of the input, and taken apart anew in each run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from operators.retrieval.answers import Answer
from operators.retrieval.generated import input_key
from operators.retrieval.generation_prompt import fill_prompt
from operators.retrieval.instruction_table import has_input, instruction_key
from operators.retrieval.parse_instructions import parse_instructions
from operators.schema import GENERATED, INPUTS, WRITTEN, from_rows
from pipeline.engine.attempts import at_most, this_actor
from pipeline.engine.job import Job, execute, in_actors, items, mapped, once
from pipeline.engine.progress import UnderWay
from pipeline.engine.resources import no_more_than
from pipeline.retrieval.shards import RowRange, generated_index, instructions_path, ranges_of
from pipeline.retrieval.writers import Writer, make_writer
from pipeline.storage import computed, urls
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import Part, WrittenInputs, record_table, records_of

BATCHES_TOGETHER = 8  # batches of a generator, or turns of a server's concurrency, in one range of inputs


@dataclass(frozen=True)
class GeneratedRange:
    """Parts of the store that hold the answers to the missing inputs from `start` on; how many of them were there before the
    run was interrupted; tokens that were written now, and the seconds that took."""

    start: int
    paths: list[str]
    resumed: int
    tokens: int
    seconds: float


def generate_instructions(job: Job, admitted: list[Part], folder: str, generator: dict[str, Any]) -> WrittenInputs:
    """Write the table of all instructions that were written for the inputs of admitted rows, and which are of which input;
    asks for those that the store's folder does not hold yet. `generator`: what an actor is made with."""
    index = generated_index(job.index)
    inputs = execute("generate", Part, mapped(items(admitted), inputs_of_part, fn_kwargs={"work": job.work}))
    stored = [(run, path) for run, path, _ in computed.by_run(folder) if not job.fresh and run != job.run]
    missing: int = once("generate", recall_answers, inputs, stored, index, job.work)
    ranges = ranges_of(missing, BATCHES_TOGETHER * generator["together"])
    most = 1 if generator["engine"] == "openai" else len(ranges)  # one process holds all requests to a server
    gpus = 0.0 if generator["engine"] == "openai" else min(1.0, job.pools.gpus_per_scorer)  # a generator is not split
    kwargs = {
        "work": job.work,
        "index": index,
        "folder": urls.join(folder, job.run),
        "every": job.config.store.write_every,
        "generator": generator,
        "share": {"a_node": job.pools.scorers_a_node, "gpus": gpus},
    }

    def stored_now() -> UnderWay:
        return UnderWay(f"{computed.rows_of_run(folder, job.run):,} inputs stored")

    with job.reporter.stage("generate", len(ranges), "ranges", slow=f"{missing:,} inputs", look=stored_now) as stage:
        answered: list[GeneratedRange] = []

        def tick(record: GeneratedRange) -> None:
            answered.append(record)
            tokens, seconds = sum(part.tokens for part in answered), sum(part.seconds for part in answered)
            stage.advance(note=f"{tokens / max(seconds, 1e-9):,.0f} tokens a second and generator")

        if ranges:
            sizes = no_more_than(job.pools.scorers, most)
            execute("generate", GeneratedRange, in_actors(items(ranges), GenerateRange, kwargs, sizes, gpus), tick)
        written: WrittenInputs = once("generate", build_written, answered, index, generator)
        stage.advance(0, f"{missing:,} new inputs")
    return written


def inputs_of_part(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the distinct INPUTS of each admitted part."""
    parts = []
    for part in records_of(Part, batch):
        texts = read_table(part.path, ["input"])["input"].unique().to_pylist()
        rows = [{"key": input_key(text), "input": text} for text in texts if has_input(text)]
        parts.append(write_part(f"{work}/inputs", from_rows(rows, INPUTS), INPUTS))
    return record_table(parts)


def recall_answers(parts: list[Part], stored: list[tuple[str, str]], index: str, work: str) -> int:
    """Write all distinct inputs, the stored answers to them, and the inputs without one, alike lengths together; how many these
    are. Of two answers to one input the newest run's is taken."""
    by_key = {row["key"]: row["input"] for part in parts for row in read_table(part.path, INPUTS.names).to_pylist()}
    write_table(f"{index}/inputs.parquet", _inputs(by_key, sorted(by_key)))
    recalled: dict[bytes, dict[str, Any]] = {}
    ordered = [path for _, path in sorted(stored, reverse=True)]
    for _, table in computed.undamaged(ordered, work, GENERATED):
        for row in table.to_pylist():
            if row["key"] in by_key:
                recalled.setdefault(row["key"], row)
    write_table(f"{index}/recalled.parquet", from_rows([recalled[key] for key in sorted(recalled)], GENERATED))
    missing = sorted(by_key.keys() - recalled.keys(), key=lambda key: (len(by_key[key]), key))
    write_table(f"{index}/missing.parquet", _inputs(by_key, missing))
    return len(missing)


def _inputs(by_key: dict[bytes, str], keys: list[bytes]) -> pa.Table:
    return from_rows([{"key": key, "input": by_key[key]} for key in keys], INPUTS)


class _Keeper:
    """Writes answers to the store: all that are waiting, every so many seconds and at the end."""

    def __init__(self, folder: str, every: float):
        self._folder, self._every = folder, every
        self._waiting: list[dict[str, Any]] = []
        self._written = time.monotonic()
        self.paths: list[str] = []

    def take(self, key: bytes, answer: Answer) -> None:
        self._waiting.append({"key": key, "text": answer.text, "finished": answer.finished})
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        if self._waiting:
            rows = from_rows(self._waiting, GENERATED).sort_by("key")
            self.paths.append(computed.write(self._folder, rows, GENERATED))
        self._waiting, self._written = [], time.monotonic()


class GenerateRange:
    """Actor: holds a generator, or speaks to a server; answers ranges of the missing inputs, and stores what it is given.

    Ranges are cut from inputs in an order that follows from the corpus and the store alone, and what this run has stored before
    it was interrupted is taken as it is.
    """

    def __init__(
        self,
        *,
        work: str,
        index: str,
        folder: str,
        every: float,
        generator: dict[str, Any],
        share: dict[str, float],
    ):
        self._work, self._folder, self._every = work, folder, every
        self._settings, self._share = generator, share
        self._missing = read_table(f"{index}/missing.parquet")

    @cached_property
    def _writer(self) -> Writer:
        with at_most(self._work, f"load-generator-{this_actor()}", "loading the generator"):
            return make_writer(self._settings, self._share)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return record_table(self._range(rows) for rows in records_of(RowRange, batch))

    def _range(self, rows: RowRange) -> GeneratedRange:
        began, tokens = time.monotonic(), 0
        folder = urls.join(self._folder, f"range-{rows.start:09d}")
        before = [path for path, _ in computed.parts(folder)]
        finished = {
            key: path
            for path, table in computed.undamaged(before, self._work, GENERATED)
            for key in table["key"].to_pylist()
        }
        wanted = self._missing.slice(rows.start, rows.stop - rows.start).to_pylist()
        keeper = _Keeper(folder, self._every)
        resumed = sum(row["key"] in finished for row in wanted)
        if resumed < len(wanted):
            with at_most(self._work, f"generate-{rows.start}", "writing instructions for inputs"):
                try:
                    for key, answer in self._writer.answers(wanted, finished.keys()):
                        tokens += answer.tokens
                        keeper.take(key, answer)
                finally:
                    keeper.write()
        paths = sorted({*finished.values(), *keeper.paths})
        return GeneratedRange(rows.start, paths, resumed, tokens, time.monotonic() - began)


def build_written(answered: list[GeneratedRange], index: str, generator: dict[str, Any]) -> WrittenInputs:
    """Take all answers apart: WRITTEN of every input, and the table of all instructions, sorted by key."""
    recalled = read_table(f"{index}/recalled.parquet")
    new = [computed.read(path, GENERATED) for record in answered for path in record.paths]
    answers = {row["key"]: row for table in (recalled, *new) for row in table.to_pylist()}
    inputs = read_table(f"{index}/inputs.parquet")
    lost = len(inputs) - len(answers)
    if lost:
        raise RuntimeError(f"{lost:,} of {len(inputs):,} inputs have no answer, though each was asked for")
    prompt = fill_prompt(generator["prompt"], "", generator["count"], 0)
    texts: dict[bytes, str] = {}
    written: list[tuple[bytes, list[bytes]]] = []
    for row in inputs.to_pylist():
        answer = answers[row["key"]]
        shown = row["input"][: generator["max_input_chars"]]
        parsed = parse_instructions(
            answer["text"] or "", generator["count"], finished=answer["finished"], prompt=prompt, input=shown
        )
        keys = [instruction_key(text) for text in parsed]
        for key, text in zip(keys, parsed, strict=True):
            texts[key] = min(text, texts.get(key, text))
        written.append((row["key"], keys))
    places = {key: place for place, key in enumerate(sorted(texts))}
    columns = {
        "key": pa.array(list(places), pa.binary(16)),
        "text": pa.array([texts[key] for key in places], pa.string()),
    }
    write_table(instructions_path(index, 0), pa.table(columns))
    rows = [{"key": key, "instructions": [places[text] for text in keys]} for key, keys in written]
    write_table(f"{index}/written.parquet", from_rows(rows, WRITTEN))
    return WrittenInputs(
        requested=len(inputs),
        stored=len(recalled),
        computed=len(inputs) - len(recalled),
        resumed=sum(record.resumed for record in answered),
        refused=sum(answers[key]["text"] is None for key, _ in written),
        distinct=len(texts),
        too_few=sum(len(keys) < generator["count"] for _, keys in written),
        tokens=sum(record.tokens for record in answered),
    )
