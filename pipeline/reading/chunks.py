"""Where rows come from: paths, globs, directories, object stores and Hugging Face datasets, as chunks that a task reads."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from operators.error_text import first_line
from operators.model_files import hub_version
from pipeline.config import Config, Input
from pipeline.errors import BadRequest
from pipeline.reading.file_kinds import ACCEPTED, kind_of, stem_of
from pipeline.reading.first_bytes import HEAD_BYTES, is_plain, refuse_stand_in
from pipeline.storage.files import digest_of, list_files, version_in, version_of
from pipeline.storage.urls import open_filesystem

CHUNK_BYTES = 32 << 20
_WILD = "*?["


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
    revision: str | None = None  # the commit of a dataset of the hub
    version: str | None = None  # of the file when it was listed: what is read later must still be that
    start: int = 0
    stop: int = -1  # -1: to the end
    first_line: int = 1


def plan(config: Config) -> list[Chunk]:
    """All chunks of all inputs, in the order that decides which of two duplicates is first; raises BadRequest."""
    files = [chunk for index, asked in enumerate(config.input) for chunk in _files(index, asked)]
    total = sum(file.size for file in files)
    if not total:
        raise BadRequest(f"input: {', '.join(asked.path for asked in config.input)}: there is not one byte to read")
    blocks = config.ray.read_blocks
    target = CHUNK_BYTES if blocks == "auto" else max(1, -(-total // blocks))
    return [chunk for file in files for chunk in _split(file, target)]


def _files(index: int, asked: Input) -> list[Chunk]:
    columns = {key: value for key, value in asked.columns.model_dump().items() if value} if asked.columns else None
    if asked.path.startswith("hf://datasets/") and kind_of(asked.path) is None:
        return [_hub(index, asked, columns)]
    try:
        listed = _list(asked.path)
    except FileNotFoundError as error:
        missing = str(error.filename or error.args[0])
        which = f"{missing!r} is " if missing != asked.path else ""
        raise BadRequest(f"input.{index}.path: {asked.path!r}: {which}no such file or folder") from error
    except (OSError, ValueError, ImportError, RuntimeError, pa.ArrowException) as error:
        reason = first_line(error)
        raise BadRequest(f"input.{index}.path: {asked.path!r} cannot be read: {reason}") from error
    unnamed = next((uri for uri, *_ in listed if any("\ud800" <= char <= "\udfff" for char in uri)), None)
    if unnamed is not None:
        raise BadRequest(f"input.{index}.path: {unnamed!r}: the file's name is not UTF-8; accepted: a name that is")
    files = []
    for number, (uri, size, version) in enumerate(listed):
        kind = kind_of(uri) or ("saved", None)
        source = asked.source or stem_of(uri)
        files.append(
            Chunk(uri, kind[0], kind[1], source, columns, index, number, size, split=asked.split, version=version)
        )
    return files


class Listed(NamedTuple):
    """A file with its bytes and version; `size` is None for a link that leads nowhere."""

    uri: str
    size: int | None
    version: str


def _list(path: str) -> list[tuple[str, int, str]]:
    """(URI, bytes, version) of each file of a path, glob or directory, sorted by name; a saved dataset is one file."""
    prefix = path.split("://")[0] + "://" if "://" in path else ""
    if any(sign in path for sign in _WILD) and not (not prefix and Path(path).exists()):
        return _glob(path if prefix else str(Path(path).expanduser()))
    filesystem, inner = open_filesystem(path)
    info = filesystem.get_file_info(inner)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    if info.type == pafs.FileType.File:
        if kind_of(path) is None:
            raise ValueError(f"unknown kind of file; accepted: {ACCEPTED}")
        with filesystem.open_input_file(inner):
            return [(path, info.size, version_of(path))]
    if not prefix and ((Path(inner) / "dataset_info.json").is_file() or (Path(inner) / "dataset_dict.json").is_file()):
        size = sum(file.stat().st_size for file in Path(inner).rglob("*.arrow"))
        return [(path, size, version_of_folder(path))]
    inner = inner.rstrip("/")
    walked = _walk(filesystem, inner, (".", "_"))
    files = _sorted_files(file._replace(uri=f"{prefix}{inner}/{file.uri}") for file in walked)
    if not files:
        raise ValueError(f"no file of a known kind in this folder; accepted: {ACCEPTED}")
    return files


def version_of_folder(folder: str) -> str:
    """What changes when any file of a folder does, or another comes or goes."""
    files = list_files(str(Path(folder).absolute()), deep=True)
    return digest_of("\n".join(f"{uri} {version_of(uri)}" for uri, _ in files).encode("utf-8", "surrogateescape"))


def require_unchanged(chunk: Chunk) -> None:
    """Raise ChangedInput where a file is not any more what it was when the inputs were listed: what is read of it would stand
    under the digest of another content."""
    if chunk.version is None:
        return
    try:
        now = version_of_folder(chunk.uri) if chunk.kind == "saved" else version_of(chunk.uri)
    except FileNotFoundError as error:
        raise ChangedInput(f"{chunk.uri} has gone since the run began; put it back, and run again") from error
    if now != chunk.version:
        raise ChangedInput(f"{chunk.uri} has changed since the run began; run again when nothing writes to it")


class ChangedInput(RuntimeError):
    """An input that is written while it is read."""


def _glob(pattern: str) -> list[tuple[str, int, str]]:
    """As `_list`, of a glob, which means the same on disks and in object stores: `*` and `?` stay within a name, `**` stands
    for folders at any depth, and what is hidden is passed over unless the pattern names it."""
    start = "".join(pattern[: min(pattern.index(sign) for sign in _WILD if sign in pattern)].rpartition("/")[:2])
    rest = pattern.removeprefix(start)
    filesystem, inner = open_filesystem(start or ".")
    wanted = re.compile(glob_translate(rest))
    hidden = () if rest.startswith(".") or "/." in rest else (".",)
    deepest = None if "**" in rest else rest.count("/")
    listed = _walk(filesystem, inner.rstrip("/"), hidden, deepest)
    # A link that leads nowhere may have named a folder in which the pattern goes on.
    files = _sorted_files(
        file._replace(uri=start + file.uri)
        for file in listed
        if wanted.match(file.uri) or (file.size is None and not kind_of(file.uri))
    )
    if not files:
        raise FileNotFoundError(pattern)
    return files


def _sorted_files(listed: Iterable[Listed]) -> list[tuple[str, int, str]]:
    """(URI, bytes, version) by name; raises FileNotFoundError where one is a link that leads nowhere."""
    files: list[tuple[str, int, str]] = []
    for uri, size, version in sorted(listed, key=lambda file: file.uri):
        if size is None:
            raise FileNotFoundError(uri)
        files.append((uri, size, version))
    return files


def _walk(
    filesystem: pafs.FileSystem, folder: str, hidden: tuple[str, ...], deepest: int | None = None
) -> Iterator[Listed]:
    """Files of known kinds by their paths in the folder, at most so many folders down; without bytes where a link leads
    nowhere, whether it named a file or a folder: Arrow's own listing leaves these out. Names that begin with a mark
    of `hidden` are passed over. Raises OSError where a folder cannot be listed."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        selector = pafs.FileSelector(folder, recursive=deepest != 0, allow_not_found=True)
        for entry in filesystem.get_file_info(selector):
            name = entry.path[len(folder) + 1 :]
            if entry.is_file and kind_of(name) and not any(part.startswith(hidden) for part in name.split("/")):
                yield Listed(name, entry.size, version_in(entry))
        return
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        inside = Path(place).relative_to(folder)
        above = {Path(folder, *inside.parts[:depth]).resolve() for depth in range(len(inside.parts) + 1)}
        deeper = deepest is None or len(inside.parts) < deepest
        folders[:] = [
            name
            for name in folders
            # A link to a folder on the way here would be followed without end.
            if deeper and not name.startswith(hidden) and Path(place, name).resolve() not in above
        ]
        for name in names:
            path = Path(place, name)
            if name.startswith(hidden):
                continue
            if not path.exists() and (kind_of(name) or deeper):
                yield Listed((inside / name).as_posix(), None, "")
            elif kind_of(name) and path.is_file():
                yield Listed((inside / name).as_posix(), path.stat().st_size, version_of(str(path)))


def _raise(error: OSError) -> None:
    raise error


def _hub(index: int, asked: Input, columns: dict[str, str] | None) -> Chunk:
    name = asked.path.removeprefix("hf://datasets/").strip("/")
    try:
        commit = hub_version(name, "dataset")
    except OSError as error:
        raise BadRequest(
            f"input.{index}.path: {asked.path!r}: the hub could not give this dataset ({error}); is the name right "
            "and the hub reachable? Offline, give the path of a dataset saved by datasets"
        ) from error
    source = asked.source or name.rpartition("/")[2]
    return Chunk(name, "hub", None, source, columns, index, 0, 1, split=asked.split, revision=commit)


def _split(file: Chunk, target: int) -> list[Chunk]:
    """Chunks of about `target` bytes; compressed text, CSV and JSON arrays cannot be split."""
    pieces = max(1, -(-file.size // target))
    if file.kind == "jsonl" and pieces > 1 and not file.compression and is_plain(_head(file)):
        edges = [file.size * i // pieces for i in range(pieces + 1)]
    elif file.kind == "parquet":
        filesystem, inner = open_filesystem(file.uri)
        try:
            refuse_stand_in(_head(file), b"PAR1")
            with filesystem.open_input_file(inner) as opened:
                groups = pq.ParquetFile(opened).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise BadRequest(
                f"input.{file.input_index}.path: {file.uri!r} is not a Parquet file: {first_line(error)}"
            ) from error
        if not groups:  # nor rows; named among the inputs all the same
            return [replace(file, stop=0)]
        edges = [groups * i // min(pieces, groups) for i in range(min(pieces, groups) + 1)]
    elif file.kind in ("saved", "hub"):
        rows = len(open_dataset(file))
        edges = [rows * i // pieces for i in range(pieces + 1)]
    else:
        return [file]
    return [replace(file, start=start, stop=stop) for start, stop in itertools.pairwise(edges) if stop > start]


def _head(file: Chunk) -> bytes:
    filesystem, inner = open_filesystem(file.uri)
    with filesystem.open_input_file(inner) as opened:
        return bytes(opened.read(HEAD_BYTES))


def open_dataset(chunk: Chunk) -> Any:
    """The Hugging Face dataset of a chunk, from disk or from the hub; raises BadRequest for a split that is not there."""
    import datasets

    try:
        loaded = (
            datasets.load_dataset(chunk.uri, split=chunk.split, revision=chunk.revision)
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
