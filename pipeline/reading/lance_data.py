"""Lance datasets: their rows at the version that was listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from operators.error_text import first_line
from pipeline.storage.urls import is_url, open_filesystem

PREFIX = "lance://"
VERSIONS = "_versions"


def is_lance(path: str) -> bool:
    """Whether a path names a Lance dataset: by its prefix, or a folder of a disk by its versions."""
    return path.startswith(PREFIX) or (
        not is_url(path) and any(Path(open_filesystem(path)[1], VERSIONS).glob("*.manifest"))
    )


def place_of_dataset(path: str) -> str:
    """The absolute path of a dataset; raises ValueError for one in an object store."""
    place = path.removeprefix(PREFIX)
    if is_url(place):
        raise ValueError(
            "it is a Lance dataset in an object store; accepted: one on a disk, or the same rows as Parquet"
        )
    return open_filesystem(place)[1]


def open_lance(path: str, version: int | None = None) -> Any:
    """A Lance dataset at a version, or at the last; raises ValueError where it cannot be read or has rows in other folders."""
    try:
        import lance
    except ImportError as error:
        raise ValueError(
            "it is a Lance dataset, and pylance is not installed: pip install 'task-specificity[lance]'"
        ) from error
    try:
        opened = lance.dataset(path, version=version)
        files = [file for fragment in opened.get_fragments() for file in fragment.data_files()]
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"it cannot be read as a Lance dataset: {first_line(error)}") from error
    if any(getattr(file, "base_id", None) is not None for file in files):
        raise ValueError("it is a Lance dataset with rows in other folders; accepted: a copy that holds them itself")
    return opened
