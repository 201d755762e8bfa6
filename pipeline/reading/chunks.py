"""Where rows come from: paths, globs, directories, object stores and Hugging Face datasets, as chunks that a task reads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import first_line, one_line
from operators.model_files import hub_version
from pipeline.config import Config, Input
from pipeline.errors import BadRequest, near_name
from pipeline.reading.data_folders import DATASET_INFO, DataEntry, entries_of, entry_of
from pipeline.reading.delta import Value, values_of_partitions
from pipeline.reading.file_kinds import kind_of, stem_of
from pipeline.reading.first_bytes import HEAD_BYTES, is_plain, refuse_stand_in, require_stream_end
from pipeline.reading.lance_data import open_lance
from pipeline.reading.listing import is_glob, list_input, table_format, table_name, version_of_folder
from pipeline.storage.files import version_of
from pipeline.storage.urls import is_url, name_of
from pipeline.storage.whole_file import open_whole

CHUNK_BYTES = 32 << 20
FOLDERS = ("saved", "lance")  # kinds of datasets that are a folder of files


@dataclass(frozen=True)
class Chunk:
    """A range of one file that one task reads: bytes of JSON lines, row groups of Parquet, rows of a dataset, or all of it."""

    uri: str
    kind: str  # jsonl, json, parquet, csv, arrow, saved, lance, hub
    compression: str | None
    source: str
    columns: dict[str, str] | None
    input_index: int
    file_index: int
    size: int
    split: str = "train"
    turns: str = "last"  # or each: which turns of a conversation are examples
    revision: str | None = None  # the commit of a dataset of the hub, the version of one of Lance
    version: str | None = None  # of the file when it was listed: what is read later must still be that
    start: int = 0
    stop: int = -1  # -1: to the end
    first_line: int = 1
    entry: DataEntry | None = None  # what a dataset_info.json beside the file says of its rows
    partition: dict[str, Value] | None = None  # columns of a table that its file lacks, with their one value in it


def plan(config: Config) -> list[Chunk]:
    """All chunks of all inputs, in the order that decides which of two duplicates is first; raises BadRequest."""
    files = [chunk for index, asked in enumerate(config.input) for chunk in _files(index, asked)]
    total = sum(file.size for file in files)
    if not total:
        paths = ", ".join(asked.path for asked in config.input)
        raise BadRequest(f"input: {paths}: there is not one byte to read; accepted: files that are not empty")
    blocks = config.ray.read_blocks
    target = CHUNK_BYTES if blocks == "auto" else max(1, -(-total // blocks))
    return [chunk for file in files for chunk in _split(file, target)]


def _files(index: int, asked: Input) -> list[Chunk]:
    columns = {key: value for key, value in asked.columns.model_dump().items() if value} if asked.columns else None
    if asked.path.startswith("hf://datasets/") and kind_of(asked.path) is None:
        return [_hub(index, asked, columns)]
    try:
        listed = list_input(asked.path)
        table = table_format(asked.path)
        revision = str(open_lance(listed[0][0]).version) if table == "lance" else None
        entries: list[DataEntry] = []
        if (
            not is_glob(asked.path)
            and listed[0][0] != asked.path
            and any(name_of(uri) == DATASET_INFO for uri, *_ in listed)
        ):
            listed, entries = entries_of(listed)
        partition_by_file = values_of_partitions(asked.path) if table == "delta" else {}
        if partition_by_file and not partition_by_file.keys() >= {uri for uri, *_ in listed}:
            raise ValueError("it has changed while its files were listed; run again when nothing writes to it")
        entry_by_file = {} if columns else {uri: entry_of(uri, entries) for uri, *_ in listed}
    except (OSError, ValueError, ImportError, RuntimeError, pa.ArrowException) as error:
        raise _cannot_be_listed(index, asked.path, error) from error
    unnamed = next((uri for uri, *_ in listed if any("\ud800" <= char <= "\udfff" for char in uri)), None)
    if unnamed is not None:
        raise BadRequest(f"input.{index}.path: {unnamed!r}: the file's name is not UTF-8; accepted: a name that is")
    files = []
    for number, (uri, size, version) in enumerate(listed):
        kind = ("lance", None) if table == "lance" else kind_of(uri) or ("saved", None)
        source = asked.source or (table_name(asked.path) if table else stem_of(uri))
        file = Chunk(
            uri,
            kind[0],
            kind[1],
            source,
            columns,
            index,
            number,
            size,
            split=asked.split,
            turns=asked.turns,
            revision=revision,
            version=version,
        )
        files.append(replace(file, entry=entry_by_file.get(uri), partition=partition_by_file.get(uri)))
    return files


def _cannot_be_listed(index: int, path: str, error: Exception) -> BadRequest:
    where = f"input.{index}.path: {path!r}"
    if isinstance(error, FileNotFoundError):
        missing = str(error.filename or error.args[0])
        which = f"{missing!r} is " if missing != path else ""
        what = (
            "no such file: none matches this pattern"
            if is_glob(missing)
            else f"{which}no such file or folder{near_name(missing)}"
        )
        # Of a relative path, which may have been meant from the folder of the configuration.
        seen = "" if is_url(path) or path.startswith(("/", "~")) else f", seen from {str(Path.cwd())!r}"
        return BadRequest(f"{where}: {what}{seen}; accepted: a file, a folder, a glob or a URL")
    reason = first_line(error)
    if is_url(path) and isinstance(error, OSError):
        reason += "; credentials and region of a store stand in the environment: AWS_ACCESS_KEY_ID, AWS_REGION, ..."
    return BadRequest(f"{where} cannot be read: {reason}")


def require_unchanged(chunk: Chunk) -> None:
    """Raise ChangedInput where a file is not any more what it was when the inputs were listed: what is read of it would stand
    under the digest of another content."""
    if chunk.version is None:
        return
    try:
        now = version_of_folder(chunk.uri) if chunk.kind in FOLDERS else version_of(chunk.uri)
    except FileNotFoundError as error:
        raise ChangedInput(f"{chunk.uri} has gone since the run began; put it back, and run again") from error
    if now != chunk.version:
        raise ChangedInput(f"{chunk.uri} has changed since the run began; run again when nothing writes to it")


class ChangedInput(RuntimeError):
    """An input that is written while it is read."""


def _hub(index: int, asked: Input, columns: dict[str, str] | None) -> Chunk:
    name = asked.path.removeprefix("hf://datasets/").strip("/")
    try:
        commit = hub_version(name, "dataset")
    except OSError as error:
        raise BadRequest(
            f"input.{index}.path: {asked.path!r}: the hub could not give this dataset ({error}); is the name right "
            "and the hub reachable? Offline, give the path of a dataset saved by datasets; for a private one, put a "
            "token of the hub into HF_TOKEN"
        ) from error
    source = asked.source or name.rpartition("/")[2]
    return Chunk(name, "hub", None, source, columns, index, 0, 1, split=asked.split, turns=asked.turns, revision=commit)


def _split(file: Chunk, target: int) -> list[Chunk]:
    """Chunks of about `target` bytes; compressed text, CSV and JSON arrays cannot be split."""
    pieces = max(1, -(-file.size // target))
    if file.kind == "jsonl" and pieces > 1 and not file.compression and is_plain(_head(file)):
        edges = [file.size * i // pieces for i in range(pieces + 1)]
    elif file.kind == "parquet":
        try:
            refuse_stand_in(_head(file), b"PAR1")
            with open_whole(file.uri, file.size) as opened:
                groups = pq.ParquetFile(opened).num_row_groups
        except (OSError, pa.ArrowException) as error:
            raise BadRequest(
                f"input.{file.input_index}.path: {file.uri!r} is not a Parquet file: {first_line(error)}; is it whole? "
                "accepted: a Parquet file, or the suffix of what it is"
            ) from error
        if not groups:  # nor rows; named among the inputs all the same
            return [replace(file, stop=0)]
        edges = [groups * i // min(pieces, groups) for i in range(min(pieces, groups) + 1)]
    elif file.kind in ("saved", "hub"):
        dataset = open_dataset(file)
        rows = len(dataset)
        if file.kind == "saved":
            _require_whole(file, [table["filename"] for table in dataset.cache_files])
        edges = [rows * i // pieces for i in range(pieces + 1)]
    elif file.kind == "lance":
        rows = open_lance_chunk(file).count_rows()
        if not rows:
            return [replace(file, stop=0)]
        edges = [rows * i // pieces for i in range(pieces + 1)]
    else:
        return [file]
    return [replace(file, start=start, stop=stop) for start, stop in itertools.pairwise(edges) if stop > start]


def _require_whole(file: Chunk, tables: list[str]) -> None:
    """Raise BadRequest where a table of a saved dataset breaks off: its reader takes what is there for all."""
    for path in tables:
        try:
            with Path(path).open("rb") as opened:
                require_stream_end(opened)
        except OSError as error:
            raise BadRequest(f"input.{file.input_index}.path: {path!r}: {error}") from error


def _head(file: Chunk) -> bytes:
    with open_whole(file.uri, file.size) as opened:
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
        if chunk.kind != "hub":
            raise BadRequest(
                f"input.{chunk.input_index}.path: {chunk.uri!r} is not a saved dataset: {first_line(error)}; accepted: "
                "a folder that save_to_disk of datasets has written, or its files themselves"
            ) from error
        raise BadRequest(
            f"input.{chunk.input_index}: the split {chunk.split!r} of {chunk.uri!r} on the hub cannot be loaded: "
            f"{one_line(error)}; accepted: another split, or a file of it: hf://datasets/{chunk.uri}/FILE.parquet"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if chunk.split not in loaded:
            raise BadRequest(
                f"input.{chunk.input_index}.split: no split {chunk.split!r}; accepted: {', '.join(loaded)}"
            )
        loaded = loaded[chunk.split]
    return loaded


def open_lance_chunk(chunk: Chunk) -> Any:
    """The Lance dataset of a chunk at the version that was listed; raises BadRequest."""
    try:
        return open_lance(chunk.uri, int(chunk.revision or 0))
    except ValueError as error:
        raise BadRequest(f"input.{chunk.input_index}.path: {chunk.uri!r}: {error}") from error
