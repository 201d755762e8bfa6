"""Stage 1: every row of every input is admitted with its token counts, or rejected with a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from operators.error_text import first_line
from operators.hashing import content_hash
from operators.normalise import Example, normalise
from operators.prompts.measure import Measured, measure
from operators.prompts.tokenise import Encoder
from operators.rejections import Rejection
from operators.retrieval.alternatives import instruction_key
from operators.schema import ADMITTED, REJECTED, from_rows
from pipeline.engine import metrics
from pipeline.engine.attempts import Attempts, GivenUp, halve_by_deaths
from pipeline.engine.encoder import cached_encoder
from pipeline.engine.job import Job, execute, items, mapped
from pipeline.reading.chunks import Chunk
from pipeline.reading.readers import read_chunk
from pipeline.reading.rows import NOTHING, RawRow, Unread
from pipeline.reading.text_files import count_lines
from pipeline.storage.parts import write_part
from pipeline.storage.records import AdmittedChunk, Part, record_table, records_of

ROWS_AT_ONCE = 2000
PART_CHARS = 32_000_000  # a part is written when its text is this long, so memory does not grow with a file
# A chunk whose process died is tried again as a whole: machines fail. Then its rows are marked before they are tried, halved at
# each death, down to one row. What dies outside of any row is a fault of the file or the machine.
WHOLE_TRIES, ROW_TRIES, OUTSIDE_TRIES = 3, 2, 6
COLUMNS_KEPT, COLUMN_CHARS = 1000, 200  # names of the rows' own columns that a run remembers, and how long one may be
SHOWN_REJECTED = 3  # rejected rows named where there are too many


def admit(job: Job, chunks: list[Chunk], encoder: dict[str, Any]) -> list[AdmittedChunk]:
    """Admit or reject every row; what came of each chunk."""
    chunks = _with_line_numbers(chunks)
    with job.reporter.stage("read", len(chunks), "chunks") as stage:
        rows = 0

        def tick(chunk: AdmittedChunk) -> None:
            nonlocal rows
            rows += chunk.read
            metrics.count("tss_rows", chunk.read, outcome="read")
            metrics.rejected(chunk.reasons)
            stage.advance(note=f"{rows:,} rows")

        kwargs = {"work": job.work, "encoder": encoder, "too_long": job.config.scorer.too_long}
        return execute("read", AdmittedChunk, mapped(items(chunks), admit_chunk, fn_kwargs=kwargs), tick)


def _with_line_numbers(chunks: list[Chunk]) -> list[Chunk]:
    """Lines are numbered within a file, so a file in several byte ranges needs its lines counted first."""
    split = [
        chunk
        for chunk in chunks
        if chunk.kind == "jsonl" and chunk.stop >= 0 and (chunk.start or chunk.stop < chunk.size)
    ]
    if not split:
        return chunks
    counted = execute("read", ChunkLines, mapped(items(split), count_chunk))
    lines = {(input_index, file_index, start): count for input_index, file_index, start, count in counted}
    result: list[Chunk] = []
    next_line: dict[tuple[int, int], int] = {}
    for chunk in chunks:
        file = (chunk.input_index, chunk.file_index)
        result.append(replace(chunk, first_line=next_line.get(file, 1)))
        next_line[file] = next_line.get(file, 1) + lines.get((*file, chunk.start), 0)
    return result


class ChunkLines(NamedTuple):
    """How many lines begin in a chunk."""

    input_index: int
    file_index: int
    start: int
    lines: int


def count_chunk(batch: pa.Table) -> pa.Table:
    """Records with the lines that begin in each chunk."""
    return record_table(
        ChunkLines(chunk.input_index, chunk.file_index, chunk.start, count_lines(chunk))
        for chunk in records_of(Chunk, batch)
    )


def admit_chunk(batch: pa.Table, *, work: str, encoder: dict[str, Any], too_long: str) -> pa.Table:
    """Read chunks, write ADMITTED and REJECTED parts, return a record for each chunk."""
    return record_table(_admit(chunk, work, encoder, too_long) for chunk in records_of(Chunk, batch))


def _admit(chunk: Chunk, work: str, encoder: dict[str, Any], too_long: str) -> AdmittedChunk:
    attempts = Attempts(work, f"read-{chunk.input_index}-{chunk.file_index}-{chunk.start}")
    deaths = attempts.counts()
    outside = 2 * deaths["chunk"] - deaths.total()  # each death has left a mark of the chunk
    if outside >= OUTSIDE_TRIES:
        raise GivenUp(
            f"{chunk.uri}: reading it ended its process {outside} times, and no row of it is to blame; is the file damaged, or "
            "is there too little memory? Accepted: more memory, or the same rows as JSON lines (one object a line)"
        )
    with attempts.trying("chunk"):
        output, start = _Output(work, chunk, cached_encoder(**encoder), too_long), 0
        for rows in _batches(_rows(chunk)):
            if deaths["chunk"] < WHOLE_TRIES:
                output.take(rows)
            else:
                _take_carefully(rows, start, output, attempts, deaths)
            start += len(rows)
        return output.finish()


def _take_carefully(rows: list[Unread], start: int, output: _Output, attempts: Attempts, deaths: Counter[str]) -> None:
    """Take rows of which some may end the process; `start` is the place of the first in its chunk."""

    def attempt(places: range, name: str) -> None:
        some = rows[places.start - start : places.stop - start]
        if len(some) > 1:
            with attempts.trying(name):
                output.take(some)
            return
        with attempts.trying(f"{name}.read"):
            row = some[0].read()
        with attempts.trying(f"{name}.take"):
            output.take_read([row])

    def alone(place: int, died: Exception) -> None:
        row = rows[place - start]
        raw = NOTHING if attempts.deaths(f"{place}-{place + 1}.read") else row.read().raw
        output.reject(
            RawRow(row.line, None, raw),
            Rejection("reader_died", f"the {died} while it read or tokenised this row alone"),
        )

    def excuse(error: Exception) -> None:
        raise error

    halve_by_deaths(range(start, start + len(rows)), deaths, attempt, alone, excuse, tries=(1, ROW_TRIES))


def _batches(rows: Iterator[Unread]) -> Iterator[list[Unread]]:
    batch: list[Unread] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if len(batch) == ROWS_AT_ONCE or size > PART_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(chunk: Chunk) -> Iterator[Unread]:
    try:
        yield from read_chunk(chunk)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise UnreadableFile(f"{chunk.uri} cannot be read to its end: {first_line(error)}") from error


class UnreadableFile(RuntimeError):
    """A file that ends or breaks in the middle: what else it holds is unknown, so no run is published without it."""


class _Output:
    """The growing parts of one chunk and its counts."""

    def __init__(self, work: str, chunk: Chunk, encoder: Encoder, too_long: str):
        self._work, self._chunk, self._encoder, self._too_long = work, chunk, encoder, too_long
        self._admitted: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []
        self._chars = self._read = 0
        self._parts: dict[str, list[Part]] = {"admitted": [], "rejected": []}
        self._reasons: Counter[str] = Counter()
        self._special_text = 0
        self._columns: set[str] = set()
        self._first_rejected: list[str] = []

    def take(self, rows: list[Unread]) -> None:
        """Look into rows, and admit or reject each."""
        read: list[RawRow] = []
        chars = 0
        for unread in rows:
            read.append(row := unread.read())
            chars += len(row.raw)
            if chars > PART_CHARS:
                self.take_read(read)
                read, chars = [], 0
        self.take_read(read)

    def take_read(self, rows: list[RawRow]) -> None:
        """Admit or reject each row."""
        examples: list[tuple[RawRow, Example]] = []
        for row in rows:
            try:
                if row.problem is not None:
                    raise row.problem
                examples.append((row, normalise(row.record, self._chunk.columns)))
            except Rejection as rejection:
                self.reject(row, rejection)
        lengths = measure([example for _, example in examples], self._encoder, too_long=self._too_long)
        for (row, example), measured in zip(examples, lengths, strict=True):
            if isinstance(measured, Rejection):
                self.reject(row, measured)
            else:
                self._admit(row, example, measured)
        if self._chars > PART_CHARS:
            self._flush()

    def _admit(self, row: RawRow, example: Example, measured: Measured) -> None:
        self._read += 1
        if len(self._columns) < COLUMNS_KEPT:
            self._columns.update(name for name in json.loads(example.extra) if len(name) <= COLUMN_CHARS)
        texts = (example.instruction, example.input, example.output)
        self._special_text += self._encoder.holds_special(*texts)
        self._chars += sum(map(len, (*texts, example.messages or "", example.extra)))
        self._admitted.append(
            {
                "id": content_hash(*texts).hex(),
                "source": self._chunk.source,
                **vars(example),
                **vars(measured),
                "file": self._chunk.uri,
                "input_index": self._chunk.input_index,
                "file_index": self._chunk.file_index,
                "line": row.line,
                "instruction_key": instruction_key(example.instruction),
                "pair_key": content_hash(example.input, example.output),
            }
        )

    def reject(self, row: RawRow, rejection: Rejection) -> None:
        """Keep a row with the reason why it cannot be used."""
        self._read += 1
        self._reasons[rejection.reason] += 1
        detail = _encodable(rejection.detail)
        if len(self._first_rejected) < SHOWN_REJECTED:
            self._first_rejected.append(f"{self._chunk.uri}:{row.line}: {rejection.reason}, {detail[:100]}")
        self._chars += len(row.raw)
        self._rejected.append(
            {
                "source": self._chunk.source,
                "file": self._chunk.uri,
                "line": row.line,
                "raw": _encodable(row.raw),
                "reason": rejection.reason,
                "detail": detail,
            }
        )

    def _flush(self) -> None:
        for kind, rows, schema in (("admitted", self._admitted, ADMITTED), ("rejected", self._rejected, REJECTED)):
            if rows:
                self._parts[kind].append(write_part(f"{self._work}/{kind}", from_rows(rows, schema), schema))
        self._admitted, self._rejected, self._chars = [], [], 0

    def finish(self) -> AdmittedChunk:
        """Write what is left; the account of the chunk."""
        self._flush()
        columns = sorted(self._columns)[:COLUMNS_KEPT]
        return AdmittedChunk(
            self._chunk.source,
            self._read,
            self._parts["admitted"],
            self._parts["rejected"],
            dict(self._reasons),
            columns,
            self._first_rejected,
            self._special_text,
        )


def _encodable(text: str) -> str:
    """Parquet text is UTF-8: what cannot be encoded is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def columns_of(chunks: list[AdmittedChunk]) -> list[str]:
    """Names of the rows' own columns, from the records of all chunks; at COLUMNS_KEPT of them there may be others."""
    columns: set[str] = set()
    for chunk in chunks:
        if len(columns) < COLUMNS_KEPT:
            columns.update(chunk.columns)
    return sorted(columns)[:COLUMNS_KEPT]
