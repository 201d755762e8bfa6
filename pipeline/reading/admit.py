"""Stage 1: every row of every input is admitted with its token counts, or rejected with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
from ray.data import Dataset

from operators.error_text import first_line
from operators.rejections import Rejection
from pipeline.engine import metrics
from pipeline.engine.attempts import Attempts, GivenUp, halve_by_deaths
from pipeline.engine.encoder import cached_encoder
from pipeline.engine.job import Job, execute, items, mapped, packed
from pipeline.reading.chunks import CHUNK_BYTES, Chunk, require_unchanged
from pipeline.reading.collect import PART_CHARS, ChunkRows, Parts
from pipeline.reading.excluded import ExcludedIndex
from pipeline.reading.readers import read_chunk
from pipeline.reading.rows import NOTHING, RawRow, Unread
from pipeline.reading.text_files import count_lines
from pipeline.storage.records import AdmittedChunk, record_table, records_of

ROWS_AT_ONCE = 2000
# A chunk whose process died is tried again as a whole: machines fail. Then its rows are marked before they are tried, halved at
# each death, down to one row. What dies outside of any row is a fault of the file or the machine.
WHOLE_TRIES, ROW_TRIES, OUTSIDE_TRIES = 3, 2, 6


def admit(
    job: Job, chunks: list[Chunk], encoder: dict[str, Any], excluded: Sequence[ExcludedIndex] = ()
) -> list[AdmittedChunk]:
    """Admit or reject every row, those that share words with excluded texts too; what came of each chunk."""
    chunks = _with_line_numbers(chunks)
    with job.reporter.stage("read", len(chunks), "chunks") as stage:
        rows = 0

        def tick(chunk: AdmittedChunk) -> None:
            nonlocal rows
            rows += chunk.read
            metrics.count("tss_rows", chunk.read, outcome="read")
            metrics.rejected(chunk.reasons)
            stage.advance(note=f"{rows:,} rows")

        kwargs = {
            "work": job.work,
            "encoder": encoder,
            "too_long": job.config.scorer.too_long,
            "excluded": list(excluded),
        }
        dataset = mapped(
            in_packs(chunks, job.config.ray.read_blocks), admit_chunks, fn_kwargs=kwargs, counts_deaths=True
        )
        return execute("read", AdmittedChunk, dataset, tick)


def in_packs(chunks: list[Chunk], read_blocks: int | str) -> Dataset:
    """The chunks for tasks: small files go together, so that a folder of thousands makes tens of tasks and parts. A chunk of a
    large file goes alone, whatever its ends count, and so does each where somebody has said how many blocks there are to be."""
    return packed(chunks, lambda chunk: chunk.size, CHUNK_BYTES if read_blocks == "auto" else 0)


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


def admit_chunks(
    batch: pa.Table, *, work: str, encoder: dict[str, Any], too_long: str, excluded: Sequence[ExcludedIndex] = ()
) -> pa.Table:
    """Read chunks, write ADMITTED and REJECTED parts, return a record for each chunk; rows of several chunks may share a part,
    which stands in the record of the last of them."""
    parts = Parts(work)
    records, unreadable = [], []
    for chunk in records_of(Chunk, batch):
        try:
            records.append(
                _admit(
                    chunk, work, lambda chunk: ChunkRows(parts, chunk, cached_encoder(**encoder), too_long, excluded)
                )
            )
        except UnreadableFile as error:  # whoever mends one file is told of its neighbours too
            unreadable.append(str(error))
    if unreadable:
        raise UnreadableFile("; ".join(unreadable))
    parts.flush()
    if records:
        records[-1] = replace(records[-1], admitted=parts.admitted, rejected=parts.rejected)
    return record_table(records)


def _admit(chunk: Chunk, work: str, collect: Callable[[Chunk], ChunkRows]) -> AdmittedChunk:
    attempts = Attempts(work, f"read-{chunk.input_index}-{chunk.file_index}-{chunk.start}")
    deaths = attempts.counts()
    outside = 2 * deaths["chunk"] - deaths.total()  # each death has left a mark of the chunk
    if outside >= OUTSIDE_TRIES:
        raise GivenUp(
            f"{chunk.uri}: reading it ended its process {outside} times, and no row of it is to blame; is the file damaged, or "
            "is there too little memory? Accepted: more memory, or the same rows as JSON lines (one object a line)"
        )
    with attempts.trying("chunk"):
        output, start = collect(chunk), 0
        for rows in _batches(_rows(chunk)):
            if deaths["chunk"] < WHOLE_TRIES:
                output.take(rows)
            else:
                _take_carefully(rows, start, output, attempts, deaths)
            start += len(rows)
        require_unchanged(chunk)
        return output.finish()


def _take_carefully(
    rows: list[Unread], start: int, output: ChunkRows, attempts: Attempts, deaths: Counter[str]
) -> None:
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
        require_unchanged(chunk)  # what is written while it is read breaks off too
        cut = "; did its download or its copy break off?" if "runcated" in str(error) else ""
        raise UnreadableFile(f"{chunk.uri} cannot be read whole: {first_line(error)}{cut}") from error


class UnreadableFile(RuntimeError):
    """A file that breaks off, or is not what its name says: what it holds is unknown, so no run is published without it."""
