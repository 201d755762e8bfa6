"""From a work folder to a run that readers see: whole, or not at all.

Everything of a run is written under `.work/<id>/` in the output folder. Publishing moves the finished folder to `runs/<id>/`
in one rename and then replaces `latest.json` in another. A run that fails leaves the former one current.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from operators.schema import REJECTED, SCORED, SELECTED
from pipeline.errors import BadRequest
from pipeline.parts import Record

MANIFEST, POINTER, REPORT = "manifest.json", "latest.json", "report.html"
_NEEDED = ("run", "config", "scorer", "counts", "pairs", "files", "columns", "instructions", "pool", "base")
_SCHEMAS = {"scored": SCORED, "selected": SELECTED, "rejected": REJECTED}


def _new_run_id() -> str:
    """A name that sorts by time and that two runs of one second do not share."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Workspace:
    """Where a run is written before readers see it: `<output>/.work/<id>/`."""

    output: Path
    run_id: str

    @property
    def folder(self) -> Path:
        """The run's own folder for parts."""
        return self.output / ".work" / self.run_id


@contextmanager
def workspace(output: Path) -> Iterator[Workspace]:
    """A new run's workspace, removed at the end however it ends; raises BadRequest where it cannot be made."""
    own = Workspace(output, _new_run_id())
    created = not output.exists()
    try:
        own.folder.mkdir(parents=True)
    except OSError as error:
        raise BadRequest(f"output: {str(output)!r} cannot be written: {error.strerror}") from error
    try:
        yield own
    finally:
        shutil.rmtree(own.folder, ignore_errors=True)
        for folder in (own.folder.parent, output) if created else (own.folder.parent,):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def gather(own: Workspace, parts: dict[str, list[Record]]) -> dict[str, list[dict[str, Any]]]:
    """Move recorded parts, in order, to `run/<kind>/part-*.parquet` of the workspace; a kind without rows gets one empty."""
    files: dict[str, list[dict[str, Any]]] = {}
    for kind, schema in _SCHEMAS.items():
        folder = own.folder / "run" / kind
        folder.mkdir(parents=True)
        files[kind] = []
        for number, record in enumerate(parts[kind]):
            path = folder / f"part-{number:05d}.parquet"
            Path(record["path"]).replace(path)
            files[kind].append({"path": f"{kind}/{path.name}", "rows": record["rows"], "bytes": record["bytes"]})
        if not files[kind]:
            path = folder / "part-00000.parquet"
            pq.write_table(schema.empty_table(), path, compression="zstd")
            files[kind].append({"path": f"{kind}/{path.name}", "rows": 0, "bytes": path.stat().st_size})
    return files


def parts_of(run: Path, files: list[dict[str, Any]]) -> list[Record]:
    """Records of a published run's parts; raises BadRequest for a path that leaves the run's folder."""
    for file in files:
        if not (run / file["path"]).resolve().is_relative_to(run.resolve()):
            raise BadRequest(f"{run / MANIFEST}: the file {file['path']!r} is outside of the run")
    return [{**file, "path": str(run / file["path"]), "block": number} for number, file in enumerate(files)]


def copy_parts(run: Path, files: list[dict[str, Any]], own: Workspace) -> list[Record]:
    """Copies of a published run's parts, as records of this run."""
    copies = []
    for record in parts_of(run, files):
        if record["rows"]:
            path = own.folder / f"copied-{record['block']:05d}.parquet"
            shutil.copyfile(record["path"], path)
            copies.append({**record, "path": str(path)})
    return copies


def publish(own: Workspace, manifest: dict[str, Any], page: str) -> Path:
    """Write manifest, report page and configuration beside the gathered parts, move all of it into place, and point to it."""
    staged, final = own.folder / "run", own.output / "runs" / own.run_id
    (staged / "config.yaml").write_text(
        yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (staged / REPORT).write_text(page, encoding="utf-8")
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(final)
    pointer = own.folder / POINTER
    pointer.write_text(json.dumps({"run": f"runs/{own.run_id}"}) + "\n", encoding="utf-8")
    pointer.replace(own.output / POINTER)
    return final


def find_run(path: Path) -> tuple[Path, Path]:
    """(output folder, run folder) of either an output folder or a run in it; raises BadRequest."""
    if (path / MANIFEST).is_file():
        return path.absolute().parent.parent, path.absolute()
    try:
        pointed = json.loads((path / POINTER).read_text(encoding="utf-8"))["run"]
    except FileNotFoundError as error:
        raise BadRequest(
            f"{path}: no {POINTER} or {MANIFEST} here; accepted: an output folder of `tss run`, or one of its runs/<id>"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path / POINTER}: cannot be read: {error}") from error
    run = (path / str(pointed)).resolve()
    if not run.is_relative_to(path.resolve()) or not (run / MANIFEST).is_file():
        raise BadRequest(f"{path / POINTER}: points to {pointed!r}, and no published run is there")
    return path.absolute(), run


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a published run; raises BadRequest."""
    try:
        manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
        missing = [key for key in _NEEDED if key not in manifest]
    except (OSError, ValueError, TypeError) as error:
        raise BadRequest(f"{run / MANIFEST}: cannot be read: {error}") from error
    if missing:
        raise BadRequest(f"{run / MANIFEST}: is no manifest of a finished run: it has no {', '.join(missing)}")
    return manifest
