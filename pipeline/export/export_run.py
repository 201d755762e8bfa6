"""`tss export`: the rows of a published run as files for a trainer. Parts are read one by one, on one machine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.prompts import template
from operators.schema import SCORED, of_earlier_release
from pipeline.engine.progress import Reporter, Stage
from pipeline.errors import BadRequest, DamagedInput, RunFailed
from pipeline.export import draw, shape, trainers, write
from pipeline.export.request import Job, Wanted, checked
from pipeline.runs.summary import Summary
from pipeline.storage.parts import DamagedPart, checked_bytes
from pipeline.storage.records import Part

_FILES_AT_ONCE = 200  # open for writing; a run of more sources is read several times
_NAMED_FILES = 8
_ROWS_TOGETHER, _BYTES_TOGETHER = 2_000, 64 << 20
_READ = pa.schema([SCORED.field(name) for name in shape.READ])


@dataclass
class _Account:
    """What has become of rows so far: those that were written, how many different ones, those without a weight, the turns of
    conversations that are written once and whole, and how many there is something to say of."""

    rows: int = 0
    distinct: int = 0
    without_weight: int = 0
    further_turns: int = 0
    conversations: set[str] = field(default_factory=set)  # that are written
    notes: Counter[str] = field(default_factory=Counter)


def export(path: str, wanted: Wanted, reporter: Reporter) -> Summary:
    """Write the export and say what it holds; raises BadRequest, RunFailed, OSError."""
    job = checked(path, wanted)
    names = _file_names(job)
    try:
        copies = _draw(job, reporter) if wanted.resample else None
        plain = wanted.suffix == "parquet" and _turns_are_plain(job, reporter)
        with write.whole_folder(job.target) as draft:
            account = _write_rows(job, reporter, draft, names, shape.schema_of(job.shape, plain=plain), copies)
            lines = _lines(job, account)
            beside = trainers.trainer_files(trainers.Files(job.target, _distinct(names), job.shape), lines)
            for name, text in beside.items():
                (draft / name).write_text(text, encoding="utf-8")
    except DamagedPart as damaged:
        raise DamagedInput("export", str(damaged)) from damaged
    files = _distinct(names)
    data = ", ".join(files) if len(files) <= _NAMED_FILES else f"{len(files):,} files, one for each source"
    shown = [f"export       {lines[0]}", *(f"{'':<12} {line}" for line in lines[1:])]
    return Summary(
        job.run, "\n".join([*shown, f"files        {data}; {', '.join(beside)}", f"output       {job.target}"])
    )


def _file_names(job: Job) -> dict[str, str]:
    """By source the file of its rows."""
    counts = job.manifest.counts.sources
    sources = [source for source, rows in counts.items() if getattr(rows, job.wanted.kind)]
    stems = write.stems(sources) if job.wanted.by_source else dict.fromkeys(sources, "train")
    return {source: f"{stem}.{job.wanted.suffix}" for source, stem in stems.items()}


def _distinct(names: dict[str, str]) -> list[str]:
    return sorted(set(names.values()))


def _batches(part: Part, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a part, every byte of which is checked first, in tables of bounded size. A column that the release which
    wrote the run did not have is null."""
    file = pq.ParquetFile(pa.BufferReader(checked_bytes(part)))
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups) // max(1, part.rows) + 1
    columns = [name for name in schema.names if name in file.schema_arrow.names]
    for batch in file.iter_batches(max(1, min(_ROWS_TOGETHER, _BYTES_TOGETHER // size)), columns=columns):
        yield of_earlier_release(pa.Table.from_batches([batch]), schema)


def _draw(job: Job, reporter: Reporter) -> np.ndarray:
    """How often each row is drawn, in the order of parts: some 60 bytes a row are held for it."""
    keys, weights = [], []
    with reporter.stage("draw", len(job.parts)) as stage:
        for part in job.parts:
            for batch in _batches(part, pa.schema([_READ.field("id"), _READ.field("weight")])):
                keys.append(draw.order_keys(batch["id"].to_pylist(), job.seed))
                weights.append(np.nan_to_num(batch["weight"].to_numpy()))
            stage.advance()
    try:
        return draw.copies(np.concatenate(keys), np.concatenate(weights), job.wanted.resample or 0, job.seed)
    except ValueError as problem:
        raise BadRequest(f"--resample: {problem}{_NO_WEIGHTS}") from problem


_NO_WEIGHTS = "; accepted: a run with scores. `tss select` makes one from a run of an early release"


def _shaped(job: Job, row: dict[str, Any]) -> shape.Shaped:
    try:
        return shape.shaped(row, job.shape)
    except (ValueError, template.TemplateProblem) as problem:
        raise RunFailed("export", f"row {row['id']} of source {row['source']!r}: {problem}") from problem


def _turns_are_plain(job: Job, reporter: Reporter) -> bool:
    """Whether a Parquet struct holds every turn of the export."""
    if job.wanted.to not in shape.TURN_COLUMNS:
        return True
    with reporter.stage("turns", len(job.parts)) as stage:
        for part in job.parts:
            for batch in _batches(part, _READ):
                if not all(shape.is_plain(_shaped(job, row).row, job.shape) for row in batch.to_pylist()):
                    return False
            stage.advance()
    return True


def _write_rows(
    job: Job, reporter: Reporter, draft: Path, names: dict[str, str], schema: pa.Schema, copies: np.ndarray | None
) -> _Account:
    """Write the rows of all sources, a part at a time; as many sources together as files may be open."""
    account = _Account()
    groups = [list(names)]
    if job.wanted.by_source:
        groups = [groups[0][start : start + _FILES_AT_ONCE] for start in range(0, len(names), _FILES_AT_ONCE)]
    with reporter.stage("export", len(groups) * len(job.parts)) as stage:
        for group in groups:
            _write_group(job, draft, {source: names[source] for source in group}, schema, copies, account, stage)
    _require_all(job, account)
    return account


def _write_group(
    job: Job,
    draft: Path,
    names: dict[str, str],
    schema: pa.Schema,
    copies: np.ndarray | None,
    account: _Account,
    stage: Stage,
) -> None:
    """Write the rows of the sources in `names`, which says the file of each."""
    with ExitStack() as stack:
        files = {name: write.open_file(stack, draft / name, schema) for name in _distinct(names)}
        place = 0
        for part in job.parts:
            for batch in _batches(part, _READ):
                counts = None if copies is None else copies[place : place + len(batch)]
                place += len(batch)
                rows: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
                _sort(job, batch, counts, {source: rows[name] for source, name in names.items()}, account)
                for name, of_file in rows.items():
                    for start in range(
                        0, len(of_file), len(batch)
                    ):  # more than the batch has where rows are drawn often
                        files[name](of_file[start : start + len(batch)])
            stage.advance()


def _require_all(job: Job, account: _Account) -> None:
    """Raise RunFailed where a row is missing, and BadRequest where none has a weight that they should have."""
    if job.wanted.weights and not account.rows:
        raise BadRequest(f"--weights: no row has a weight{_NO_WEIGHTS}")
    left_out = account.without_weight + account.further_turns
    expected = job.wanted.resample or sum(part.rows for part in job.parts) - left_out
    if account.rows != expected:
        raise RunFailed(
            "export", f"{account.rows:,} rows written, {expected:,} expected: the manifest does not name all sources"
        )


def _sort(
    job: Job,
    batch: pa.Table,
    counts: Sequence[int] | np.ndarray | None,
    rows: dict[str, list[dict[str, Any]]],
    account: _Account,
) -> None:
    """Put the rows of a batch, shaped, where their sources' are gathered; other sources are passed over."""
    for row, count in zip(batch.to_pylist(), itertools.repeat(1) if counts is None else counts, strict=False):
        source = row["source"]
        if source not in rows:
            continue
        if job.wanted.weights and row["weight"] is None:
            account.without_weight += 1
        elif job.shape.whole and row["conversation"] in account.conversations:
            account.further_turns += 1
        elif count:
            made = _shaped(job, row)
            account.notes.update(made.notes)
            account.rows += int(count)
            account.distinct += 1
            if job.shape.whole and row["conversation"] is not None:
                account.conversations.add(row["conversation"])
            rows[source].extend([made.row] * int(count))


def _lines(job: Job, account: _Account) -> list[str]:
    """What was exported, for people."""
    wanted = job.wanted
    lines = [f"{account.rows:,} rows, {wanted.kind} in run {job.manifest.run}, as {wanted.to} in {wanted.suffix}"]
    if wanted.resample:
        lines.append(f"drawn with replacement by weight, seed {job.seed}; {account.distinct:,} different rows")
    if account.without_weight:
        lines.append(f"{account.without_weight:,} rows have no weight, since they have no score, and are left out")
    if account.further_turns:
        lines.append(f"{account.further_turns:,} further turns stand in the same conversations, which go out whole")
    lines += [f"{number:,} rows {note}" for note, number in sorted(account.notes.items())]
    return lines
