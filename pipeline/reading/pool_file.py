"""A pool file: instructions of the user's own that are offered as alternatives instead of the run's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import one_line
from pipeline.errors import BadRequest
from pipeline.reading.rows import MAX_ROW_BYTES
from pipeline.storage import urls


def read_pool_file(path: str) -> list[str]:
    """Instructions of a pool file: the lines of .txt, the column `instruction` of the other kinds; raises BadRequest."""
    if urls.is_url(path):  # not shown: it may hold credentials
        raise BadRequest(
            "alternatives.pool: a URL; accepted: a file where the command runs, .txt, .jsonl, .csv or .parquet"
        )
    key = f"alternatives.pool: {path!r}"
    try:
        match Path(path).suffix.lower():
            case ".txt":
                texts = _lines(path)
            case ".jsonl":
                texts = [_instruction_of(number, line) for number, line in enumerate(_lines(path), 1) if line.strip()]
            case ".csv":
                csv.field_size_limit(MAX_ROW_BYTES)  # as for rows
                with Path(path).open(encoding="utf-8-sig", newline="") as file:
                    rows = csv.DictReader(file)
                    if "instruction" not in (rows.fieldnames or ()):
                        raise ValueError("its header has no column instruction")
                    texts = [row["instruction"] for row in rows]
            case ".parquet":
                texts = pq.read_table(path, columns=["instruction"])["instruction"].to_pylist()
            case _:
                raise BadRequest(
                    f"{key}: unknown kind of file; accepted: .txt, .jsonl, .csv, .parquet with a column instruction"
                )
    except FileNotFoundError as error:
        raise BadRequest(f"{key}: no such file; accepted: {_ACCEPTED}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise BadRequest(f"{key}: cannot be read as instructions: {one_line(error)}; accepted: {_ACCEPTED}") from error
    texts = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts:
        raise BadRequest(f"{key}: holds no instruction, so no row would have an alternative; accepted: {_ACCEPTED}")
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise BadRequest(f"{key}: holds half a character (\\ud800 to \\udfff alone), which is no text; accepted: UTF-8")
    return texts


_ACCEPTED = "a .txt with an instruction a line, or a .jsonl, .csv or .parquet with a column instruction, in UTF-8"


def _lines(path: str) -> list[str]:
    # str.splitlines would cut at characters that lines may hold, such as U+2028.
    with Path(path).open(encoding="utf-8-sig") as file:
        return [line.rstrip("\n") for line in file]


def _instruction_of(number: int, line: str) -> str:
    """The instruction of a line of JSON; raises ValueError that names the line."""
    try:
        text: str = json.loads(line)["instruction"]
        return text
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"line {number} is no JSON object with a key instruction") from error
