"""Files of texts that no admitted row may share words with: read where the command runs, before any work."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import one_line
from operators.word_ngrams import SHORTEST, words_of
from pipeline.config import Exclude
from pipeline.errors import BadRequest
from pipeline.reading.rows import MAX_ROW_BYTES
from pipeline.storage import urls
from pipeline.storage.files import digest_of

ACCEPTED = ".txt, .jsonl, .csv or .parquet"


@dataclass(frozen=True)
class ExcludedFile:
    """A file as it was read: its texts, each with its line or row (from 1), and how rows are compared with them."""

    path: str
    ngram: int
    columns: list[str] | None
    digest: str
    texts: list[tuple[int, str]]

    @property
    def identity(self) -> list[Any]:
        """All that rejections follow from."""
        return [self.path, self.ngram, self.columns, self.digest]


def read_excluded(excludes: Sequence[Exclude]) -> list[ExcludedFile]:
    """The files of `exclude`; raises BadRequest."""
    return [_read(f"exclude.{index}", asked) for index, asked in enumerate(excludes)]


def _read(key: str, asked: Exclude) -> ExcludedFile:
    if urls.is_url(asked.path):  # not shown: it may hold credentials
        raise BadRequest(f"{key}.path: a URL; accepted: a file where the command runs, {ACCEPTED}")
    name = f"{key}.path: {asked.path!r}"
    try:
        data = Path(asked.path).read_bytes()
        texts = list(_texts(key, asked, data))
    except FileNotFoundError as error:
        raise BadRequest(f"{name}: no such file; accepted: {ACCEPTED}") from error
    except (OSError, ValueError, TypeError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise BadRequest(f"{name}: cannot be read: {one_line(error)}; accepted: {ACCEPTED}, whole, in UTF-8") from error
    if not any(len(words_of(text)) >= SHORTEST for _, text in texts):
        what = f"none of its {len(texts):,} texts has {SHORTEST} words" if texts else "holds no text"
        raise BadRequest(
            f"{name}: {what}, so that it would exclude nothing; accepted: a file with texts of {SHORTEST} or more words"
        )
    return ExcludedFile(asked.path, asked.ngram, asked.columns, digest_of(data), texts)


def _texts(key: str, asked: Exclude, data: bytes) -> Iterator[tuple[int, str]]:
    """(line, text) of all texts of a file; raises BadRequest and what reading raises."""
    suffix = Path(asked.path).suffix.lower()
    if suffix == ".txt":
        if asked.columns is not None:
            raise BadRequest(f"{key}.columns: found columns for {asked.path!r}, whose lines are texts; accepted: none")
        # str.splitlines would cut at characters that lines may hold, such as U+2028, and miss n-grams across them.
        for line, text in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig"), start=1):
            if text.strip():
                yield line, text.rstrip("\n")
        return
    if suffix not in (".jsonl", ".csv", ".parquet"):
        raise BadRequest(f"{key}.path: {asked.path!r}: unknown kind of file; accepted: {ACCEPTED}")
    rows = {".jsonl": _of_json_lines, ".csv": _of_csv, ".parquet": _of_parquet}[suffix]
    missing, names = set(asked.columns or []), set[str]()
    for line, row in rows(data):
        missing -= row.keys()
        names |= row.keys() if missing else set()
        for value in row.values() if asked.columns is None else map(row.get, asked.columns):
            yield from ((line, text) for text in strings_in(value) if text.strip())
    if missing:
        raise BadRequest(
            f"{key}.columns: no row of {asked.path!r} has {', '.join(map(repr, sorted(missing)))}; accepted: "
            f"{', '.join(sorted(names)) or 'columns that it has'}"
        )


def strings_in(value: Any) -> Iterator[str]:
    """All texts in a value, at any depth; names of columns are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def _of_json_lines(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {line}: found {type(row).__name__}, expected an object with named columns")
        yield line, row


def _of_csv(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_ROW_BYTES)  # as for rows
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    before = 1
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {before + 1}: another number of fields than the header has")
        yield before + 1, row
        before = reader.line_num


def _of_parquet(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    line = 0
    for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches():
        for row in batch.to_pylist():
            line += 1
            yield line, row
