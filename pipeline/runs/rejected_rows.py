"""The rejected rows of a run that fails for them, kept where one can look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import RunFailed
from pipeline.runs.workspace import Workspace
from pipeline.storage import files, urls
from pipeline.storage.records import Part

FOLDER = "failures"  # of the output, beside the logs of commands that failed


@contextmanager
def kept_on_failure(workspace: Workspace, parts: Sequence[Part]) -> Iterator[None]:
    """Keep these REJECTED parts of a run whose checks within raise RunFailed, and name their place in what it says."""
    try:
        yield
    except RunFailed as failed:
        folder = urls.join(workspace.output, FOLDER, f"{workspace.run_id}-rejected")
        if not parts or not _keep(folder, parts):
            raise
        raise RunFailed(failed.stage, f"{failed.cause}. All rejected rows are in {folder}") from failed


def _keep(folder: str, parts: Sequence[Part]) -> bool:
    """Give parts their places in a folder, in which an earlier attempt may have left some; whether all are there."""
    with contextlib.suppress(OSError, pa.ArrowException):  # why the run fails matters more
        files.delete_folder(folder)
        for number, part in enumerate(parts):
            files.move(part.path, urls.join(folder, f"part-{number:05d}.parquet"))
        return True
    return False
