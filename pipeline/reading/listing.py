"""The files that a path, glob or folder means, on a disk or in an object store."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from pipeline.reading import delta, iceberg, lance_data
from pipeline.reading.file_kinds import ACCEPTED, kind_of
from pipeline.storage.files import digest_of, list_files, version_in, version_of
from pipeline.storage.urls import name_of, open_filesystem, parent_of

_WILD = "*?["
_TABLE_PREFIXES = (delta.PREFIX, iceberg.PREFIX, lance_data.PREFIX)
_NOTES = ("state.json", "dataset_info.json")  # of datasets, on the Arrow files beside them


class Listed(NamedTuple):
    """A file with its bytes and version; `size` is None for a link that leads nowhere."""

    uri: str
    size: int | None
    version: str


def is_glob(path: str) -> bool:
    """Whether a path is a pattern; a file of a disk may have such a name."""
    return any(sign in path for sign in _WILD) and not ("://" not in path and Path(path).exists())


def table_format(path: str) -> str | None:
    """Whether a path is that of a table, some of whose files hold rows that are gone: delta, iceberg, lance or None."""
    if is_glob(path) and not path.startswith(_TABLE_PREFIXES):
        return None
    formats = {"delta": delta.is_delta, "iceberg": iceberg.is_iceberg, "lance": lance_data.is_lance}
    return next((name for name, has in formats.items() if path.startswith(f"{name}://")), None) or next(
        (name for name, has in formats.items() if has(path)), None
    )


def place_of(path: str) -> str:
    """The path or URL of an input without the prefix that says which table it is."""
    return path.removeprefix(next((prefix for prefix in _TABLE_PREFIXES if path.startswith(prefix)), ""))


def table_name(path: str) -> str:
    """The name of a table; a file that describes a version of it stands in a folder of its own."""
    place = place_of(path).rstrip("/")
    return name_of(parent_of(parent_of(place)) if place.endswith(iceberg.SUFFIX) else place).removesuffix(".lance")


def list_input(path: str) -> list[tuple[str, int, str]]:
    """(URI, bytes, version) of each file of a path, glob or directory, sorted by name; a saved dataset is one file, and so is
    one of Lance."""
    prefix = path.split("://")[0] + "://" if "://" in path else ""
    if path.startswith(_TABLE_PREFIXES):
        return _of_table(path, table_format(path))
    if is_glob(path):
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
    if (table := table_format(path)) is not None:
        return _of_table(path, table)
    if not prefix and _is_saved(Path(inner)):
        size = sum(file.stat().st_size for file in Path(inner).rglob("*.arrow"))
        return [(path, size, version_of_folder(path))]
    inner = inner.rstrip("/")
    walked = _walk(filesystem, inner, (".", "_"), with_tables=False)
    files = _sorted_files(file._replace(uri=f"{prefix}{inner}/{file.uri}") for file in _without_notes(list(walked)))
    if not files:
        raise ValueError(f"no file of a known kind in this folder; accepted: {ACCEPTED}")
    return files


def _of_table(path: str, table: str | None) -> list[tuple[str, int, str]]:
    if table == "lance":
        place = lance_data.place_of_dataset(path)
        version = version_of_folder(place)
        lance_data.open_lance(place)
        return [(place, sum(size for _, size in list_files(f"{place.rstrip('/')}/data", deep=True)), version)]
    files = []
    for uri in (delta if table == "delta" else iceberg).files_of_table(path):
        filesystem, inner = open_filesystem(uri)
        files.append((uri, filesystem.get_file_info(inner).size, version_of(uri)))
    if not files:
        raise ValueError("it is a table without rows; accepted: one that has some, or leave it out of the inputs")
    return files


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` has saved a dataset or a dictionary of them here; a dataset_info.json stands in other folders too."""
    if (folder / "dataset_dict.json").is_file():
        return True
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(state, dict) and "_data_files" in state


def _without_notes(listed: list[Listed]) -> list[Listed]:
    """Files without those in which `datasets` keeps notes on the Arrow files that lie beside them."""
    with_tables = {file.uri.rpartition("/")[0] for file in listed if kind_of(file.uri) == ("arrow", None)}
    return [
        file
        for file in listed
        if not (file.uri.rpartition("/")[0] in with_tables and file.uri.rpartition("/")[2] in _NOTES)
    ]


def _glob(pattern: str) -> list[tuple[str, int, str]]:
    """As `list_input`, of a glob, which means the same on disks and in object stores: `*` and `?` stay within a name, `**`
    stands for folders at any depth, and what is hidden is passed over unless the pattern names it."""
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
    filesystem: pafs.FileSystem,
    folder: str,
    hidden: tuple[str, ...],
    deepest: int | None = None,
    *,
    with_tables: bool = True,
) -> Iterator[Listed]:
    """Files of known kinds by their paths in the folder, at most so many folders down; without bytes where a link leads
    nowhere, whether it named a file or a folder: Arrow's own listing leaves these out. Names that begin with a mark
    of `hidden` are passed over. Raises ValueError for a file of a table unless `with_tables`, OSError where a folder cannot be
    listed."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        selector = pafs.FileSelector(folder, recursive=deepest != 0, allow_not_found=True)
        for entry in filesystem.get_file_info(selector):
            name = entry.path[len(folder) + 1 :]
            if not with_tables:
                _refuse_table(f"{folder}/{name}")
            if entry.is_file and kind_of(name) and not any(part.startswith(hidden) for part in name.split("/")):
                yield Listed(name, entry.size, version_in(entry))
        return
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        inside = Path(place).relative_to(folder)
        above = {Path(folder, *inside.parts[:depth]).resolve() for depth in range(len(inside.parts) + 1)}
        deeper = deepest is None or len(inside.parts) < deepest
        if not with_tables:
            manifests = Path(place, lance_data.VERSIONS).glob("*.manifest")
            for path in (*(Path(place, name) for name in [*folders, *names]), *manifests):
                _refuse_table(path.as_posix())
        # A link to a folder on the way here would be followed without end.
        folders[:] = [
            name
            for name in folders
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


def _refuse_table(path: str) -> None:
    """Raise ValueError for what belongs to a table, some of whose files hold rows that are gone."""
    folder, is_log, _ = f"{path}/".partition(f"/{delta.LOG}/")
    table = "a Delta table" if is_log else None
    if parent_of(path).endswith(f"/{iceberg.FOLDER}") and path.endswith(iceberg.SUFFIX):
        folder, table = parent_of(parent_of(path)), "an Iceberg table"
    if parent_of(path).endswith(f"/{lance_data.VERSIONS}") and path.endswith(".manifest"):
        folder, table = parent_of(parent_of(path)), "a Lance dataset"
    if table is not None:
        raise ValueError(f"{folder} is {table}; accepted: its path as an input of its own")


def _raise(error: OSError) -> None:
    raise error


def version_of_folder(folder: str) -> str:
    """What changes when any file of a folder does, or another comes or goes."""
    files = list_files(str(Path(folder).absolute()), deep=True)
    return digest_of("\n".join(f"{uri} {version_of(uri)}" for uri, _ in files).encode("utf-8", "surrogateescape"))
