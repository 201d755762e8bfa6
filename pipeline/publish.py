"""From a work folder to a run that readers see: whole, or not at all.

Everything of a run is written under `.work/<id>/` in the output folder. Publishing moves the finished folder to `runs/<id>/`
in one rename and then replaces `latest.json` in another. A run that fails leaves the former one current.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from operators.schema import REJECTED, SCORED, SELECTED
from pipeline.errors import BadRequest
from pipeline.parts import Record

MANIFEST, POINTER = "manifest.json", "latest.json"
_SCHEMAS = {"scored": SCORED, "selected": SELECTED, "rejected": REJECTED}


def new_run_id() -> str:
    """A name that sorts by time and that two runs of one second do not share."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def make_work(output: Path, run_id: str) -> Path:
    """The run's own folder for parts; raises BadRequest where it cannot be made."""
    work = output / ".work" / run_id
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise BadRequest(f"output: {str(output)!r} cannot be written: {error.strerror}") from error
    return work


def remove_work(work: Path) -> None:
    """Remove a run's parts, and the folder of such folders if it was the last."""
    shutil.rmtree(work, ignore_errors=True)
    if work.parent.is_dir() and not any(work.parent.iterdir()):
        work.parent.rmdir()


def gather(work: Path, parts: dict[str, list[Record]]) -> dict[str, list[dict[str, Any]]]:
    """Move recorded parts to `<work>/run/<kind>/part-00000.parquet`, in order; a kind without rows gets one empty file."""
    files: dict[str, list[dict[str, Any]]] = {}
    for kind, schema in _SCHEMAS.items():
        folder = work / "run" / kind
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


def copy_parts(run: Path, files: list[dict[str, Any]], work: Path) -> list[Record]:
    """Copies of a published run's parts, as records of this run."""
    records = []
    for number, file in enumerate(files):
        if file["rows"]:
            path = work / f"copied-{number:05d}.parquet"
            shutil.copyfile(run / file["path"], path)
            records.append({"path": str(path), "rows": file["rows"], "bytes": file["bytes"]})
    return records


def publish(output: Path, work: Path, run_id: str, manifest: dict[str, Any]) -> Path:
    """Write manifest and configuration beside the gathered parts, move all of it into place, and point to it."""
    staged, final = work / "run", output / "runs" / run_id
    (staged / "config.yaml").write_text(
        yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(final)
    pointer = work / POINTER
    pointer.write_text(json.dumps({"run": f"runs/{run_id}"}) + "\n", encoding="utf-8")
    pointer.replace(output / POINTER)
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
        return json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequest(f"{run / MANIFEST}: cannot be read: {error}") from error
