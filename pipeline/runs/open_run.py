"""A published run as later commands find it: by the pointer, with a manifest that checks itself, and parts with digests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from operators.error_text import first_line
from pipeline.errors import BadRequest
from pipeline.runs.manifest import Manifest, opened
from pipeline.storage import files, urls
from pipeline.storage.pointer import POINTER, POINTER_BYTES
from pipeline.storage.records import BlockPart, Part

MANIFEST, REPORT, CONFIG = "manifest.json", "report.html", "config.yaml"
CARD = "README.md"
RUNS = "runs"
_MANIFEST_BYTES = 1 << 30  # of one that is what it should be, and far more
_NAME_A_RUN = "Name one of runs/<id>, make one current with `tss use`, or run again"


def locate(text: str) -> str:
    """A path or URL as commands are given it, absolute; raises BadRequest for a URL of another kind or with credentials."""
    if urls.has_credentials(text):
        raise BadRequest("a URL with credentials in it; accepted: a URL without, and credentials in the environment")
    if urls.is_url(text) and text.partition("://")[0] not in urls.SCHEMES:
        raise BadRequest(f"{text!r}: accepted: a folder, or a URL of {', '.join(urls.SCHEMES)}")
    return text.rstrip("/") if urls.is_url(text) else str(Path(text).expanduser().absolute())


def find_run(path: str) -> tuple[str | None, str]:
    """(output folder, run folder) of either an output folder or a run in it; the output of a run that lies in none, such as a
    copy, is None. Raises BadRequest."""
    path = locate(path)
    try:
        if files.exists(urls.join(path, MANIFEST)):
            return _output_of(path), path
        run = latest_run(path)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"{path}: cannot be read: {first_line(error)}") from error
    if run is None:
        raise BadRequest(
            f"{path}: no {POINTER} or {MANIFEST} here; accepted: an output folder of `tss run`, or one of its runs/<id>"
        )
    return path, run


def _output_of(run: str) -> str | None:
    """The output in whose `runs/` a run lies; links and `..` on the way to it lead elsewhere than its name says."""
    ways = [run] if ".." not in run.split("/") else []
    if not urls.is_url(run):
        ways.append(str(Path(run).resolve()))
    for way in ways:
        output = urls.parent_of(urls.parent_of(way))
        if urls.name_of(urls.parent_of(way)) == RUNS and files.exists(urls.join(output, POINTER)):
            return output
    return None


def latest_run(output: str) -> str | None:
    """The run that the pointer of an output names, None where nothing was published; raises BadRequest."""
    pointer = urls.join(output, POINTER)
    try:
        data = files.read(pointer, at_most=POINTER_BYTES)
        pointed = json.loads(data)["run"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = first_line(error)[:200] if isinstance(error, OSError) else "it is no JSON object that names a run"
        raise BadRequest(f"{pointer}: cannot be read: {why}. {_NAME_A_RUN}") from error
    run = inside(output, pointed) if isinstance(pointed, str) else None
    if run is None or not files.exists(urls.join(run, MANIFEST)):
        raise BadRequest(f"{pointer}: points to {str(pointed)[:200]!r}, and no published run is there. {_NAME_A_RUN}")
    return run


def require_readable(problem: BadRequest) -> None:
    """Raise the error of storage behind a problem, if there is one: what cannot be read just now must not be taken for missing
    or damaged, and removed."""
    cause = problem.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise cause from problem


def current_run(output: str) -> str | None:
    """The run that the pointer names, if it names one: readers may be in it. Raises OSError where storage does not say."""
    try:
        return latest_run(output)
    except BadRequest as problem:  # a pointer to nothing, which no reader can follow either
        require_readable(problem)
        return None


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
    path = urls.join(folder, *parts)
    if not urls.is_url(folder) and not Path(path).resolve().is_relative_to(Path(folder).resolve()):
        return None  # a link that leads out
    return path


def read_manifest(run: str) -> Manifest:
    """The manifest of a published run; raises BadRequest where it is cut off, changed, or no manifest."""
    path = urls.join(run, MANIFEST)
    try:
        return opened(files.read(path, at_most=_MANIFEST_BYTES))
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error}. {_ANOTHER}") from error
    except ValueError as problem:
        raise BadRequest(f"{path}: {problem}. {_ANOTHER}") from problem


_ANOTHER = "Name another runs/<id>, or run again: likelihoods that are stored are not computed again"


def settings_of(manifest: Manifest) -> dict[str, Any]:
    """The configuration that a selection from a run starts from.

    Early releases computed other formulas under the paper's names, with constants of another meaning: scores of their runs
    start from the defaults. They selected from the top of the ranking."""
    settings = {**manifest.config, **manifest.base}
    settings["select"] = {"temperature": 0.0, **settings.get("select", {})}
    if "quality_weight" in settings.get("score", {}):
        del settings["score"]
    return settings


def parts_of(run: str, published: list[Part]) -> list[BlockPart]:
    """The parts of a published run where they lie; raises BadRequest for a path that leaves the run's folder."""
    parts = []
    for number, part in enumerate(published):
        path = inside(run, part.path)
        if path is None:
            raise BadRequest(f"{urls.join(run, MANIFEST)}: the file {part.path!r} is outside of the run. {_ANOTHER}")
        parts.append(BlockPart(number, replace(part, path=path)))
    return parts
