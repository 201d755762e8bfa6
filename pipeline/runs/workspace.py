"""Where a run is written before readers see it, and how the same request finds the run that it had begun before.

A work folder says which request it serves: a digest of the inputs' content and of all settings. The same request goes on under
the same run id: whatever it has stored of likelihoods and embeddings is its own. Of the folder it keeps the names of parts that
it has found damaged; everything else is made again.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.engine import metrics
from pipeline.errors import BadRequest
from pipeline.interruption import Interruption
from pipeline.runs.open_run import MANIFEST, RUNS, read_manifest, require_readable
from pipeline.storage import files, urls
from pipeline.storage.computed import NOTES, STORES, count_answers, count_run, damaged
from pipeline.storage.lock import Lock

WORK, _REQUEST = ".work", "request.json"
_REQUEST_BYTES = 1 << 16
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")


@dataclass(frozen=True)
class Workspace:
    """The folders of a run that is being made: `<output>/.work/<id>/`, and where it will be published."""

    output: str
    run_id: str
    lock: Lock
    resumed: bool = False
    fresh: bool = False  # leave what earlier runs have stored aside, also when it goes on

    @property
    def whole(self) -> bool:
        """Whether the run was made to its end before, and only the pointer does not name it yet. Raises OSError where storage
        does not say."""
        try:
            return bool(read_manifest(self.final))
        except BadRequest as problem:  # there is none, or it is cut off
            require_readable(problem)
            return False

    @property
    def folder(self) -> str:
        """The run's own folder for parts."""
        return urls.join(self.output, WORK, self.run_id)

    @property
    def final(self) -> str:
        """Where readers will find it."""
        return urls.join(self.output, RUNS, self.run_id)

    @property
    def staged(self) -> str:
        """Where the files of the published run are put together."""
        return self.final if urls.is_url(self.output) else urls.join(self.folder, "run")


@contextmanager
def open_workspace(output: str, lock: Lock, request: str, *, fresh: bool = False) -> Iterator[Workspace]:
    """The workspace of an interrupted run of this request, or a new one; leftovers of all others are removed.

    However it ends, parts are removed. Where the same request would go on, the folder stays, with the request and the names of
    damaged parts alone: the next attempt is then known as one.
    """
    workspace = _enter(output, lock, request, fresh)
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = json.dumps({"request": request, "run": workspace.run_id, "began": began, "fresh": workspace.fresh})
    metrics.of_run(workspace.run_id)
    try:
        files.write(urls.join(workspace.folder, _REQUEST), note.encode())
        yield workspace
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, pa.ArrowException):
            Interruption.stored = count_run(output, workspace.run_id)[1]
        raise
    finally:
        metrics.of_run("")
        # What storage does not let go of now is removed by the next command; how this one has ended matters more.
        with contextlib.suppress(OSError, pa.ArrowException):
            if lock.held():  # whoever has taken over meanwhile may work in the same folder
                _clear(workspace, keep_request=_goes_on(workspace))
                files.delete_empty(urls.join(output, WORK))


def _enter(output: str, lock: Lock, request: str, fresh: bool) -> Workspace:
    resumed: Workspace | None = None
    for name in files.list_folders(urls.join(output, WORK)):
        left = Workspace(output, name, lock, resumed=True)
        noted = _request_of(left)
        left = replace(left, fresh=bool(noted.get("fresh")))
        same = noted.get("request") == request
        # What stands on a disk under its final name without a sound manifest is in the way of a run of that name.
        free = urls.is_url(output) or left.whole or not files.exists(left.final)
        if same and free and not fresh and resumed is None:
            resumed = left
            _clear(left, keep_request=True)
        else:
            # An interrupted run of another request keeps its name as long as it has pairs in the store.
            _clear(left, keep_request=not same and not left.whole and _worth_keeping(left))
    _remove_unpublished(output)
    return resumed or Workspace(output, new_run_id(_names_of_runs(output)), lock, fresh=fresh)


def _names_of_runs(output: str) -> Iterator[str]:
    """What bears the name of a run in an output: runs, those that were begun, and what both have stored."""
    stored = (urls.join(output, kind) for kind in STORES)
    folders = [urls.join(folder, name) for folder in stored for name in files.list_folders(folder)]
    for folder in (urls.join(output, RUNS), urls.join(output, WORK), *folders):
        yield from files.list_folders(folder)


def _remove_unpublished(output: str) -> None:
    """Runs of an object store that never got their manifest."""
    if urls.is_url(output):
        folder = urls.join(output, RUNS)
        for name in run_ids(folder):
            if not files.exists(urls.join(folder, name, MANIFEST)):
                files.delete_folder(urls.join(folder, name))


def _request_of(left: Workspace) -> dict[str, Any]:
    try:
        noted = json.loads(files.read(urls.join(left.folder, _REQUEST), at_most=_REQUEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}  # not even the request was written whole: there is nothing to go on with
    return noted if isinstance(noted, dict) else {}


def _goes_on(workspace: Workspace) -> bool:
    """Whether the same request has to know of this run: readers do not see it, and it lacks nothing but the pointer, was begun
    fresh, or is worth keeping."""
    return Interruption.published != workspace.final and (
        workspace.whole or workspace.fresh or _worth_keeping(workspace)
    )


def _worth_keeping(workspace: Workspace) -> bool:
    """Whether a run that is not whole has stored pairs or answers, or has found damaged parts that its manifest will name."""
    return (
        count_run(workspace.output, workspace.run_id)[0] > 0
        or count_answers(workspace.output, workspace.run_id) > 0
        or bool(damaged(workspace.folder))
    )


def _clear(workspace: Workspace, *, keep_request: bool = False) -> None:
    if keep_request:
        for name in files.list_folders(workspace.folder):
            if name != NOTES:
                files.delete_folder(urls.join(workspace.folder, name))
        for path, _ in files.list_files(workspace.folder):
            if urls.name_of(path) != _REQUEST:
                files.delete(path)
    else:
        files.delete_folder(workspace.folder)
    if workspace.staged == workspace.final and not workspace.whole:
        files.delete_folder(workspace.final)


def run_ids(folder: str) -> list[str]:
    """The runs among the folders in a folder, sorted by time; what bears another name is not ours, and neither is a link."""
    names = [name for name in files.list_folders(folder) if _RUN_ID.fullmatch(name)]
    return names if urls.is_url(folder) else [name for name in names if not Path(folder, name).is_symlink()]


def new_run_id(before: Iterable[str]) -> str:
    """A name that two runs do not share and that sorts after all names `before`: by the time, or a second after the latest of
    them where the clock was set back since, or is behind that of the machine that made it."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    latest = max((began for name in before if (began := _began(name)) is not None), default=datetime.datetime.min)
    with contextlib.suppress(OverflowError):  # at the end of the calendar
        now = max(now, latest + datetime.timedelta(seconds=1))
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def _began(name: str) -> datetime.datetime | None:
    """When a run was begun, by its name, or that of what was made of it; None of what is named otherwise."""
    if _RUN_ID.match(name):
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(name[:15], "%Y%m%dT%H%M%S")
    return None
