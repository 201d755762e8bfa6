"""Where rows come from: paths, globs, directories, object stores and Hugging Face datasets, as chunks that a task reads."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from operators.error_text import first_line
from operators.model_files import hub_version
from pipeline.config import Config, Input
from pipeline.errors import BadRequest
from pipeline.storage.urls import open_filesystem

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES = 32 << 20
ACCEPTED = ".jsonl .json .parquet .csv, also .gz and .zst of the text kinds, or a dataset saved by datasets"


@dataclass(frozen=True)
class Chunk:
    """A range of one file that one task reads: bytes of JSON lines, row groups of Parquet, rows of a dataset, or all of it."""

    uri: str
    kind: str  # jsonl, json, parquet, csv, saved, hub
    compression: str | None
    source: str
    columns: dict[str, str] | None
    input_index: int
    file_index: int
    size: int
    split: str = "train"
    start: int = 0
    stop: int = -1  # -1: to the end
    first_line: int = 1

    def to_json(self) -> str:
        """For the trip through a dataset of tasks."""
        return json.dumps(asdict(self))


def plan(config: Config) -> list[Chunk]:
    """All chunks of all inputs, in the order that decides which of two duplicates is first; raises BadRequest."""
    files = [chunk for index, one in enumerate(config.input) for chunk in _files(index, one)]
    total = sum(file.size for file in files)
    if not total:
        raise BadRequest(f"input: {', '.join(one.path for one in config.input)}: there is not one byte to read")
    blocks = config.ray.read_blocks
    target = CHUNK_BYTES if blocks == "auto" else max(1, -(-total // blocks))
    return [chunk for file in files for chunk in _split(file, target)]


def _files(index: int, one: Input) -> list[Chunk]:
    columns = {key: value for key, value in one.columns.model_dump().items() if value} if one.columns else None
    if one.path.startswith("hf://datasets/") and _kind(one.path) is None:
        return [_hub(index, one, columns)]
    try:
        found = _list(one.path)
    except FileNotFoundError as error:
        raise BadRequest(f"input.{index}.path: {one.path!r}: no such file or folder") from error
    except (OSError, ValueError, ImportError, RuntimeError, pa.ArrowException) as error:
        reason = first_line(error)
        raise BadRequest(f"input.{index}.path: {one.path!r} cannot be read: {reason}") from error
    unnamed = next((uri for uri, _ in found if any("\ud800" <= char <= "\udfff" for char in uri)), None)
    if unnamed is not None:
        raise BadRequest(f"input.{index}.path: {unnamed!r}: the file's name is not UTF-8; accepted: a name that is")
    files = []
    for number, (uri, size) in enumerate(found):
        kind = _kind(uri) or ("saved", None)
        source = one.source or _stem(uri)
        files.append(Chunk(uri, kind[0], kind[1], source, columns, index, number, size, split=one.split))
    return files


def _kind(uri: str) -> tuple[str, str | None] | None:
    path = Path(uri)
    compression = COMPRESSIONS.get(path.suffix.lower())
    kind = KINDS.get(Path(path.stem).suffix.lower() if compression else path.suffix.lower())
    return (kind, compression) if kind and not (compression and kind == "parquet") else None


def _stem(uri: str) -> str:
    path = Path(uri)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


def _list(path: str) -> list[tuple[str, int]]:
    """(URI, bytes) of each file of a path, glob or directory, sorted by name; a saved dataset is one file."""
    prefix = path.split("://")[0] + "://" if "://" in path else ""
    if any(sign in path for sign in "*?[") and not (not prefix and Path(path).exists()):
        return _glob(path, prefix)
    filesystem, inner = open_filesystem(path)
    info = filesystem.get_file_info(inner)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    if info.type == pafs.FileType.File:
        if _kind(path) is None:
            raise ValueError(f"unknown kind of file; accepted: {ACCEPTED}")
        with filesystem.open_input_file(inner):
            return [(path, info.size)]
    if not prefix and ((Path(inner) / "dataset_info.json").is_file() or (Path(inner) / "dataset_dict.json").is_file()):
        return [(path, sum(file.stat().st_size for file in Path(inner).rglob("*.arrow")))]
    entries = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True))
    files = sorted(
        (prefix + one.path, one.size)
        for one in entries
        if one.is_file and _kind(one.path) and not _hidden(one.path, inner)
    )
    if not files:
        raise ValueError(f"no file of a known kind in this folder; accepted: {ACCEPTED}")
    return files


def _glob(pattern: str, prefix: str) -> list[tuple[str, int]]:
    if not prefix:
        found = map(Path, glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (an absolute pattern)
        files = sorted((str(path), path.stat().st_size) for path in found if path.is_file() and _kind(str(path)))
    else:
        base = pattern[: min(pattern.index(sign) for sign in "*?[" if sign in pattern)].rpartition("/")[0]
        filesystem, inner = open_filesystem(base)
        wanted = open_filesystem(base)[1] + pattern[len(base) :]
        entries = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True))
        files = sorted(
            (prefix + one.path, one.size)
            for one in entries
            if one.is_file and fnmatch.fnmatch(one.path, wanted) and _kind(one.path)
        )
    if not files:
        raise FileNotFoundError(pattern)
    return files


def _hidden(path: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in Path(path).relative_to(root).parts)


def _hub(index: int, one: Input, columns: dict[str, str] | None) -> Chunk:
    name = one.path.removeprefix("hf://datasets/").strip("/")
    try:
        hub_version(name, "dataset")
    except OSError as error:
        raise BadRequest(
            f"input.{index}.path: {one.path!r}: the hub could not give this dataset ({error}); is the name right and the hub "
            "reachable? Offline, give the path of a dataset saved by datasets"
        ) from error
    return Chunk(name, "hub", None, one.source or name.rpartition("/")[2], columns, index, 0, 1, split=one.split)


def _split(file: Chunk, target: int) -> list[Chunk]:
    """Chunks of about `target` bytes; compressed text, CSV and JSON arrays cannot be split."""
    pieces = max(1, -(-file.size // target))
    if file.kind == "jsonl" and not file.compression:
        edges = [file.size * i // pieces for i in range(pieces + 1)]
    elif file.kind == "parquet":
        filesystem, inner = open_filesystem(file.uri)
        try:
            with filesystem.open_input_file(inner) as opened:
                groups = pq.ParquetFile(opened).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise BadRequest(
                f"input.{file.input_index}.path: {file.uri!r} is not a Parquet file: {first_line(error)}"
            ) from error
        edges = [groups * i // min(pieces, max(1, groups)) for i in range(min(pieces, max(1, groups)) + 1)]
    elif file.kind in ("saved", "hub"):
        rows = len(open_dataset(file))
        edges = [rows * i // pieces for i in range(pieces + 1)]
    else:
        return [file]
    return [replace(file, start=start, stop=stop) for start, stop in itertools.pairwise(edges) if stop > start]


def open_dataset(chunk: Chunk) -> Any:
    """The Hugging Face dataset of a chunk, from disk or from the hub; raises BadRequest for a split that is not there."""
    import datasets

    try:
        loaded = (
            datasets.load_dataset(chunk.uri, split=chunk.split)
            if chunk.kind == "hub"
            else datasets.load_from_disk(chunk.uri)
        )
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"input.{chunk.input_index}.path: {chunk.uri!r} is not a saved dataset: {first_line(error)}"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if chunk.split not in loaded:
            raise BadRequest(
                f"input.{chunk.input_index}.split: no split {chunk.split!r}; accepted: {', '.join(loaded)}"
            )
        loaded = loaded[chunk.split]
    return loaded
