"""Files of an export: JSON lines or Parquet, in a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BadRequest, RunFailed

Write = Callable[[list[dict[str, Any]]], None]
_NAME_CHARS = 64
_SAFE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_NAME_CHARS - 1}}}")
_LIKE_A_DIGEST = re.compile(r".*-[0-9a-f]{16}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # of Windows


def require_free(target: Path) -> None:
    """Raise BadRequest where an export cannot come to lie at `target`."""
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise BadRequest(f"{target}: is no folder; accepted: a folder that is empty or does not exist yet")
        if target.exists() and any(target.iterdir()):
            raise BadRequest(f"{target}: is there already, and not empty; accepted: another folder with --output DIR")
        above = next(parent for parent in target.parents if parent.exists())
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be read
        raise BadRequest(
            f"{target}: is no place for a folder: {error}; accepted: another folder with --output DIR"
        ) from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadRequest(f"{target}: {above} cannot be written; accepted: another folder with --output DIR")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, named `.<name>.draft-<digits>`, that takes the target's name when the block ends well, and
    goes when it does not. Raises RunFailed where somebody has filled the target meanwhile."""
    draft = target.with_name(f".{target.name[:100]}.draft-{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in (*draft.iterdir(), draft):
            _sync(path)
        try:
            draft.rename(target)
        except OSError as error:
            if target.exists():
                raise RunFailed(
                    "export", f"{target} was filled by somebody else meanwhile; give another folder with --output DIR"
                ) from error
            raise
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Make a file or the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_file(stack: ExitStack, path: Path, schema: pa.Schema) -> Write:
    """What appends rows to a new file, in the kind that its suffix names; `stack` closes it. Only Parquet needs the schema."""
    if path.suffix == ".jsonl":
        file = stack.enter_context(path.open("wb"))
        return lambda rows: file.writelines(_json(row).encode() + b"\n" for row in rows)
    writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
    return lambda rows: writer.write_table(_table(rows, schema))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; values of JSON columns become their text."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if field.type == pa.json_():
            texts = pa.array([None if value is None else _json(value) for value in values], pa.string())
            columns.append(texts.cast(field.type))
        elif field.type == pa.list_(pa.json_()):
            lists = pa.array([[_json(item) for item in value] for value in values], pa.list_(pa.string()))
            columns.append(lists.cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)


def stems(sources: Iterable[str]) -> dict[str, str]:
    """A file name, without suffix, for each source: the source itself where that is a plain name of ASCII letters, digits, `.`,
    `_` and `-`; else what is left of it, and a digest. No two are the same, also where case does not count."""
    sources = sorted(set(sources))
    folded = Counter(source.casefold() for source in sources)
    return {
        source: source if folded[source.casefold()] == 1 and _is_plain_name(source) else _with_digest(source)
        for source in sources
    }


def _is_plain_name(source: str) -> bool:
    return bool(
        _SAFE.fullmatch(source)
        and not source.endswith(".")
        and not _LIKE_A_DIGEST.fullmatch(source.casefold())
        and source.casefold().partition(".")[0] not in _DEVICES | {"readme", "dataset_info"}
    )


def _with_digest(source: str) -> str:
    left = re.sub(r"[^A-Za-z0-9_]+", "-", source).strip("-")[: _NAME_CHARS - 17] or "source"
    return f"{left}-{hashlib.blake2b(source.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
