"""A published run as later commands find it: by the pointer, with a manifest that checks itself, and parts with digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.error_text import first_line
from pipeline.storage import files, urls
from pipeline.errors import BadRequest
from pipeline.storage.parts import Record

MANIFEST, POINTER, REPORT, CONFIG = "manifest.json", "latest.json", "report.html", "config.yaml"
RUNS = "runs"
_NEEDED = ("run", "config", "scorer", "counts", "pairs", "files", "columns", "instructions", "pool", "base")


def locate(text: str) -> str:
    """A path or URL as commands are given it, absolute; raises BadRequest for a URL of another kind or with credentials."""
    if urls.has_credentials(text):
        raise BadRequest("a URL with credentials in it; accepted: a URL without, and credentials in the environment")
    if urls.is_url(text) and text.partition("://")[0] not in urls.SCHEMES:
        raise BadRequest(f"{text!r}: accepted: a folder, or a URL of {', '.join(urls.SCHEMES)}")
    return text.rstrip("/") if urls.is_url(text) else str(Path(text).expanduser().absolute())


def find_run(path: str) -> tuple[str, str]:
    """(output folder, run folder) of either an output folder or a run in it; raises BadRequest."""
    path = locate(path)
    try:
        if files.exists(urls.join(path, MANIFEST)):
            return urls.parent_of(urls.parent_of(path)), path
        run = latest_run(path)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"{path}: cannot be read: {first_line(error)}") from error
    if run is None:
        raise BadRequest(
            f"{path}: no {POINTER} or {MANIFEST} here; accepted: an output folder of `tss run`, or one of its runs/<id>"
        )
    return path, run


def latest_run(output: str) -> str | None:
    """The run that the pointer of an output names, None where nothing was published; raises BadRequest."""
    pointer = urls.join(output, POINTER)
    try:
        pointed = json.loads(files.read(pointer))["run"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{pointer}: cannot be read: {error}. Name one of runs/<id>, or run again") from error
    run = inside(output, str(pointed))
    if run is None or not files.exists(urls.join(run, MANIFEST)):
        raise BadRequest(f"{pointer}: points to {pointed!r}, and no published run is there")
    return run


def require_readable(problem: BadRequest) -> None:
    """Raise the error of storage behind a problem, if there is one: what cannot be read just now must not be taken for missing
    or damaged, and removed."""
    cause = problem.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise cause from problem


def inside(folder: str, relative: str) -> str | None:
    """The file of a relative path in a folder; None where it would lie outside."""
    parts = relative.split("/")
    if (
        relative.startswith("/")
        or "\\" in relative
        or "\0" in relative
        or any(part in ("", ".", "..") for part in parts)
    ):
        return None
    found = urls.join(folder, *parts)
    if not urls.is_url(folder) and not Path(found).resolve().is_relative_to(Path(folder).resolve()):
        return None  # a link that leads out
    return found


def read_manifest(run: str) -> dict[str, Any]:
    """The manifest of a published run; raises BadRequest where it is cut off, changed, or no manifest."""
    path = urls.join(run, MANIFEST)
    try:
        manifest = json.loads(files.read(path))
        missing = [key for key in _NEEDED if key not in manifest]
        changed = "digest" in manifest and manifest["digest"] != digest_of(manifest)
    except (OSError, ValueError, TypeError) as error:
        raise BadRequest(f"{path}: cannot be read: {error}. {_ANOTHER}") from error
    if missing:
        raise BadRequest(f"{path}: is no manifest of a finished run: it has no {', '.join(missing)}. {_ANOTHER}")
    if changed:
        raise BadRequest(f"{path}: is not as it was published: its digest differs. {_ANOTHER}")
    return manifest


_ANOTHER = "Name another runs/<id>, or run again: likelihoods that are stored are not computed again"


def digest_of(manifest: dict[str, Any]) -> str:
    """The digest of all that a manifest says."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return files.digest_of(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())


def parts_of(run: str, files: list[dict[str, Any]]) -> list[Record]:
    """Records of a published run's parts; raises BadRequest for a path that leaves the run's folder."""
    records = []
    for number, file in enumerate(files):
        path = inside(run, str(file["path"]))
        if path is None:
            raise BadRequest(f"{urls.join(run, MANIFEST)}: the file {file['path']!r} is outside of the run")
        records.append({**file, "path": path, "block": number})
    return records
