"""A pool file: instructions of the user's own that are offered as alternatives instead of the run's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
