"""From a work folder to a run that readers see: whole, or not at all.

Parts are gathered under the run's final names, the manifest comes last, and then one file, the pointer `latest.json`, is
replaced. On a disk all of it is put together in the work folder first and moved to `runs/<id>/` in one rename. An object store
renames nothing: there a run lies under its final name from the start, and is none until its manifest is there. A run that
fails leaves the former one current.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Any

import pyarrow as pa
import yaml

from operators.schema import REJECTED, SCORED, SELECTED
from pipeline.storage import files, urls
from pipeline.errors import BadRequest
from pipeline.engine.job import Job, execute, over_parts
from pipeline.storage.parts import Record, checked_bytes, record_table, write_table
from pipeline.engine.progress import Reporter
from pipeline.runs.open_run import CONFIG, MANIFEST, POINTER, REPORT, RUNS, digest_of, latest_run, require_readable
from pipeline.runs.workspace import Workspace, run_ids

_SCHEMAS = {"scored": SCORED, "selected": SELECTED, "rejected": REJECTED}


def gather(job: Job, own: Workspace, parts: dict[str, list[Record]]) -> dict[str, list[dict[str, Any]]]:
    """Move recorded parts, in order, to `<kind>/part-*.parquet` of the run; a kind without rows gets one empty."""
    files: dict[str, list[dict[str, Any]]] = {}
    moves = []
    for kind, schema in _SCHEMAS.items():
        files[kind] = []
        for number, record in enumerate(parts[kind]):
            name = f"{kind}/part-{number:05d}.parquet"
            moves.append({"path": record["path"], "target": urls.join(own.staged, name)})
            files[kind].append({"path": name, **{key: record[key] for key in ("rows", "bytes", "digest")}})
        if not files[kind]:
            name = f"{kind}/part-00000.parquet"
            written = write_table(urls.join(own.staged, name), schema.empty_table())
            files[kind].append({**written, "path": name, "rows": 0})
    with job.reporter.stage("publish", len(moves)) as stage:
        execute("publish", over_parts(moves, move_parts), lambda record: stage.advance())
    return files


def move_parts(batch: pa.Table) -> pa.Table:
    """Give parts their final names. A part that has it already was moved by an attempt that died after."""
    records = []
    for move in map(json.loads, batch["item"].to_pylist()):
        if files.exists(move["path"]) or not files.exists(move["target"]):
            files.move(move["path"], move["target"])
        records.append({"target": move["target"]})
    return record_table(records)


def copy_parts(batch: pa.Table, *, work: str) -> pa.Table:
    """Copy parts of a published run into the work folder of another, every byte checked; records of the copies."""
    records = []
    for record in map(json.loads, batch["item"].to_pylist()):
        path = urls.join(work, "copied", f"{uuid.uuid4().hex}.parquet")
        data = checked_bytes(record)
        files.write(path, data)
        records.append({**record, "path": path, "bytes": len(data), "digest": files.digest_of(data)})
    return record_table(records)


def publish(own: Workspace, manifest: dict[str, Any], page: str) -> str:
    """Write configuration, report page and, last, the manifest beside the gathered parts; point to the run. Its folder."""
    config = yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True)
    plain = json.loads(json.dumps(manifest))  # as a reader will find it
    sealed = json.dumps({**plain, "digest": digest_of(plain)}, indent=2, ensure_ascii=False) + "\n"
    files.write(urls.join(own.staged, CONFIG), config.encode())
    files.write(urls.join(own.staged, REPORT), page.encode())
    own.lock.require()
    files.write(urls.join(own.staged, MANIFEST), sealed.encode())
    if own.staged != own.final:
        files.move(own.staged, own.final)
    return point(own)


def point(own: Workspace) -> str:
    """Make a whole run the current one; its folder."""
    pointer = json.dumps({"run": f"{RUNS}/{own.run_id}"}) + "\n"
    files.write(urls.join(own.output, POINTER), pointer.encode())
    Reporter.published = own.final
    return own.final


def current_run(output: str) -> str | None:
    """The run that the pointer names, if it names one: readers may be in it. Raises OSError where storage does not say."""
    try:
        return latest_run(output)
    except BadRequest as problem:  # a pointer to nothing, which no reader can follow either
        require_readable(problem)
        return None


def remove_old_runs(output: str, current: str, former: str | None, keep: int | None) -> list[str]:
    """Remove all but the newest `keep` runs; their ids. The current one stays always, whoever has published it, and so does the
    one before, which a reader may have found by the pointer a moment ago."""
    if keep is None:
        return []
    folder = urls.join(output, RUNS)
    # Names begin with the time, and a run that was resumed has that of its first attempt: these two stay all the same.
    staying = {urls.name_of(run) for run in (current, former, current_run(output)) if run}
    others = [name for name in run_ids(folder) if name not in staying]
    old = others[: max(0, len(others) - max(0, keep - len(staying)))]
    for name in old:
        run = urls.join(folder, name)
        # Without a manifest it is no run any more, whatever a process that dies here leaves of it.
        with contextlib.suppress(FileNotFoundError):
            files.delete(urls.join(run, MANIFEST))
        files.delete_folder(run)
    return old
