"""From a work folder to a run that readers see: whole, or not at all.

Parts are gathered under the run's final names, the manifest comes last, and then one file, the pointer `latest.json`, is
moved. On a disk all of it is put together in the work folder first and moved to `runs/<id>/` in one rename. An object store
renames nothing: there a run lies under its final name from the start, and is none until its manifest is there. A run that
fails leaves the former one current.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import yaml

from operators.schema import NEAR_DUPLICATES, REJECTED, SCORED, SELECTED
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.errors import RunFailed
from pipeline.interruption import Interruption
from pipeline.runs.card import card
from pipeline.runs.manifest import Manifest, ReportFile, sealed
from pipeline.runs.open_run import CARD, CONFIG, MANIFEST, REPORT, RUNS, current_run
from pipeline.runs.workspace import WORK, Workspace, run_ids
from pipeline.storage import conditional, files, urls
from pipeline.storage.parts import checked_bytes, write_table
from pipeline.storage.pointer import move_pointer
from pipeline.storage.records import BlockPart, Part, record_table, records_of

_SCHEMAS = {"scored": SCORED, "selected": SELECTED, "rejected": REJECTED, "near_duplicates": NEAR_DUPLICATES}


class Move(NamedTuple):
    """A file on its way to its final name."""

    path: str
    target: str
    rows: int
    bytes: int


def gather(job: Job, workspace: Workspace, parts: dict[str, list[Part]]) -> dict[str, list[Part]]:
    """Move recorded parts, in order, to `<kind>/part-*.parquet` of the run; a kind without rows gets one empty. The parts with
    their paths in the run."""
    published: dict[str, list[Part]] = {}
    moves = []
    for kind in parts:
        names = [f"{kind}/part-{number:05d}.parquet" for number in range(max(1, len(parts[kind])))]
        moves += [
            Move(part.path, urls.join(workspace.staged, name), part.rows, part.bytes)
            for part, name in zip(parts[kind], names, strict=False)
        ]
        written = parts[kind] or [write_table(urls.join(workspace.staged, names[0]), _SCHEMAS[kind].empty_table())]
        published[kind] = [replace(part, path=name) for part, name in zip(written, names, strict=True)]
    with job.reporter.stage("publish", len(moves)) as stage:
        for _ in light_pass("publish", Move, moves, move_parts):
            stage.advance()
    return published


def move_parts(batch: pa.Table) -> pa.Table:
    """Give parts their final names. A part that has it already was moved by an attempt that died after."""
    moves = list(records_of(Move, batch))
    for move in moves:
        if files.exists(move.path) or not files.exists(move.target):
            files.move(move.path, move.target)
    return record_table(moves)


def copy_parts(batch: pa.Table, *, work: str) -> pa.Table:
    """Copy parts of a published run into the work folder of another, every byte checked; records of the copies."""
    copies = []
    for record in records_of(BlockPart, batch):
        path = urls.join(work, "copied", f"{uuid.uuid4().hex}.parquet")
        files.write(path, checked_bytes(record.part))
        copies.append(BlockPart(record.block, replace(record.part, path=path)))
    return record_table(copies)


def listed(page: str, problem: str | None) -> ReportFile:
    """What the manifest says of the report page; `problem` is why it lacks the figures of rows."""
    data = page.encode()
    return ReportFile(REPORT, len(data), files.digest_of(data), problem)


def publish(workspace: Workspace, manifest: Manifest, page: str, say: Callable[[str], None]) -> str:
    """Write configuration, report page, card and, last, the manifest beside the gathered parts; point to the run.

    Its folder."""
    config = yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True)
    files.write(urls.join(workspace.staged, CONFIG), config.encode())
    files.write(urls.join(workspace.staged, REPORT), page.encode())
    files.write(urls.join(workspace.staged, CARD), card(manifest).encode())
    text = sealed(manifest).encode()
    workspace.lock.require()
    _write_manifest(workspace, text)
    if workspace.staged != workspace.final:
        files.move(workspace.staged, workspace.final)
    return point(workspace, say)


def _write_manifest(workspace: Workspace, text: bytes) -> None:
    """In a store the manifest makes a run of what lies there: a process that was held up must not write its own over it."""
    path = urls.join(workspace.staged, MANIFEST)
    if urls.is_url(path):
        with contextlib.suppress(conditional.NotConditional):
            if conditional.replace_object(path, conditional.Seen(None), text):
                return
            raise RunFailed(
                "publish",
                f"{path} is there already: another process has gone on with this run meanwhile; `tss runs` shows what "
                "it made",
            )
    files.write(path, text)


def point(workspace: Workspace, say: Callable[[str], None]) -> str:
    """Make a whole run the current one; its folder. Where a store does not check the condition of the write, `say` tells so."""
    unchecked = move_pointer(workspace.output, f"{RUNS}/{workspace.run_id}", workspace.lock.require)
    Interruption.published = workspace.final
    if unchecked:
        say(
            f"pointer      moved; the store takes no conditional write ({unchecked}), so let one command at a time "
            "write into this output"
        )
    return workspace.final


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
        _remove_run(output, name)
    return old


def _remove_run(output: str, name: str) -> None:
    """Remove a run that readers may still be in. On a disk it goes from its place in one step: who lists its files there gets
    all of them or none, and never a few that look like a smaller run. In a store it is no run any more without its manifest,
    whatever a process that dies here leaves of it, and its files go one by one."""
    run = urls.join(output, RUNS, name)
    if urls.is_url(run):
        files.delete(urls.join(run, MANIFEST))
    else:
        # Among what is being made: what is left there of a process that died here goes with the next command.
        aside = urls.join(output, WORK, f"removed-{uuid.uuid4().hex}")
        files.move(run, aside)
        run = aside
    files.delete_folder(run)
