"""The folder or URL that a command writes into: checked before anything is made, then held while the command lasts."""

from __future__ import annotations

import os
import platform
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from operators.error_text import first_line
from pipeline.config import Input
from pipeline.engine.session import is_local, session
from pipeline.errors import BadRequest
from pipeline.reading.listing import place_of
from pipeline.runs.open_run import RUNS, current_run
from pipeline.runs.workspace import WORK
from pipeline.storage import computed, files, urls
from pipeline.storage.lock import FOLDER, Lock, hold
from pipeline.storage.pointer import NUMBERS, POINTER

_LOOKS = 4  # a second apart
_BELONGS = (
    "is user {owner}'s, and this user may not read and write there; accepted: rights to it (chown, chmod), or another "
    "output"
)


@contextmanager
def working_on(output: str, command: str, address: str | None) -> Iterator[Lock]:
    """Hold an output, with Ray up on machines that all see it; raises BadRequest."""
    with hold(output, command) as lock, session(address):
        if not is_local(address):
            from pipeline.engine.job import everywhere  # which imports Ray, as `tss use` and `tss runs` do not

            everywhere("preflight", check_shared, output, lock.path)
        yield lock


def check_output(output: str) -> str:
    """The output folder, absolute; raises BadRequest where nothing can be written there. Creates nothing."""
    if urls.is_url(output):
        return _check_store(output.rstrip("/"))
    try:
        path = Path(output).expanduser().absolute()
        is_file = path.exists() and not path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a home folder of nobody
        raise BadRequest(
            f"output: {output!r} is no place for a folder: {error}; accepted: a folder, which need not exist yet"
        ) from error
    if is_file:
        raise BadRequest(f"output: {output!r} is a file; accepted: a folder, which need not exist yet")
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise BadRequest(f"output: {output!r}: {existing} is a file; accepted: a folder, which need not exist yet")
    if not os.access(existing, os.W_OK | os.X_OK):
        why = "lies on a file system that is mounted read-only" if _is_read_only(existing) else "is not writable"
        raise BadRequest(f"output: {output!r}: {existing} {why}; accepted: a folder in which this user can make files")
    for name in (RUNS, WORK):
        if (path / name).is_symlink():
            raise BadRequest(
                f"output: {output!r}: {name} in it is a link, and a run appears by a rename, which needs one disk; accepted: a "
                "folder, or an output that is itself on the other disk"
            )
    _require_rights(path)
    _require_readable_pointer(str(path))
    return str(path)


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _require_rights(output: Path) -> None:
    """Raise BadRequest where another user's files would stop a run, most of them at its very end."""
    for folder in (output, *(output / name for name in (RUNS, WORK, FOLDER, NUMBERS, *computed.STORES))):
        if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise BadRequest(f"output: {str(output)!r}: {folder} {_BELONGS.format(owner=folder.stat().st_uid)}")
    pointer = output / POINTER
    # In a folder with the sticky bit nobody but the owner replaces a file.
    theirs = pointer.exists() and os.geteuid() not in (0, pointer.stat().st_uid, output.stat().st_uid)
    if theirs and output.stat().st_mode & stat.S_ISVTX:
        raise BadRequest(
            f"output: {str(output)!r}: {pointer} {_BELONGS.format(owner=pointer.stat().st_uid)}: the sticky bit of its folder "
            "keeps others from replacing it"
        )


def _require_readable_pointer(output: str) -> None:
    """Raise BadRequest where it cannot be known which run is current: no run could be published beside it."""
    try:
        current_run(output)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(
            f"output: {output!r}: its current run cannot be read: {first_line(error)}; accepted: an output whose files this "
            "user may read and write"
        ) from error


def _check_store(output: str) -> str:
    scheme, _, inner = output.partition("://")
    if urls.has_credentials(output) or "?" in output:
        raise BadRequest(
            "output: a URL with credentials or options in it, which would be kept in logs and manifests; accepted: a URL "
            "without, and both in the environment, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"
        )
    if scheme not in urls.SCHEMES or not inner:
        raise BadRequest(
            f"output: {output!r}: found a URL of {scheme!r}; accepted: a folder, or a URL of "
            f"{', '.join(urls.SCHEMES)} with a bucket, such as s3://bucket/runs"
        )
    bucket = f"{scheme}://{inner.partition('/')[0]}"
    try:
        reached = files.exists(bucket)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(
            f"output: {output!r} cannot be reached: {first_line(error)}; credentials and region of a store stand in "
            "the environment, such as AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL"
        ) from error
    if not reached:
        raise BadRequest(f"output: {output!r}: there is no bucket {bucket}; accepted: one that exists")
    _require_readable_pointer(output)
    return output


def require_apart(output: str, inputs: Sequence[Input]) -> None:
    """Raise BadRequest where the output lies in an input, or an input in what runs write: they would read their own rows."""
    written = [urls.join(output, name) for name in (RUNS, WORK, *computed.STORES)]
    for index, asked in enumerate(inputs):
        if asked.path.startswith("hf://"):
            continue
        place = place_of(asked.path)
        if _holds(place, output):
            raise BadRequest(
                f"output: {output!r} lies in input.{index}.path: {asked.path!r}, and later runs would read what this one "
                "writes; accepted: a folder beside the input"
            )
        folder = next((folder for folder in written if _holds(folder, place)), None)
        if folder is not None:
            raise BadRequest(
                f"input.{index}.path: {asked.path!r} lies in {folder!r}, where this output's runs keep what they write; "
                "accepted: a copy of it elsewhere, or another output"
            )


def _holds(folder: str, path: str) -> bool:
    """Whether a folder is a place or one above it, links followed."""
    if urls.is_url(folder) or urls.is_url(path):
        return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
    try:
        return Path(path).expanduser().resolve().is_relative_to(Path(folder).expanduser().resolve())
    except (OSError, RuntimeError, ValueError):
        return False  # no name of a file: whoever reads it says so


def check_shared(output: str, claim: str) -> None:
    """Raise BadRequest where this worker does not see the claim that the driver has just written into the output."""
    for _ in range(_LOOKS):  # a network file system may show a new file a moment later
        if files.exists(claim):
            return
        time.sleep(1.0)
    raise BadRequest(
        f"output: {output!r} is not the same folder on {platform.node()}, where work is done, as where the command runs; "
        "accepted: a folder on storage that all machines of the cluster see, or a URL such as s3://bucket/runs"
    )
