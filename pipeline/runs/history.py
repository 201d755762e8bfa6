"""The runs of an output: which there are, which is current, which of them a refresh compares with, and another made current."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from operators.error_text import first_line
from pipeline.config import WHERE_AND_HOW, Config
from pipeline.errors import BadRequest
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.runs.output import check_output
from pipeline.runs.summary import Summary
from pipeline.runs.workspace import run_ids
from pipeline.storage import files, urls
from pipeline.storage.lock import hold
from pipeline.storage.pointer import move_pointer

# Keys in which runs of the same settings may differ.
_NO_SETTINGS = (*WHERE_AND_HOW, "input", "exclude", "max_rejected_fraction", "strict")
_MOST_LOOKED_AT = 200  # of the newest runs, among which one of the same settings is looked for


def runs(output: str) -> Summary:
    """The runs of an output, a line each, the newest last; raises BadRequest."""
    output = open_run.locate(output)
    try:
        names, current = run_ids(urls.join(output, open_run.RUNS)), open_run.current_run(output)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"{output}: cannot be read: {first_line(error)}") from error
    if not names:
        raise BadRequest(f"{output}: no run is published here; accepted: an output folder of `tss run`")
    lines = [_line(output, name, current) for name in names]
    if current is None:
        lines.append("none is current: the pointer names no run; `tss use` makes one current")
    return Summary(output, "\n".join(lines))


def _line(output: str, name: str, current: str | None) -> str:
    run = urls.join(output, open_run.RUNS, name)
    mark = "*" if current == run else " "
    try:
        manifest = open_run.read_manifest(run)
    except BadRequest as problem:
        return f"{mark} {name}  {_when(name)}  cannot be used: {str(problem).removeprefix(run)[:200]}"
    counts, budget = manifest.counts, manifest.budget
    used = f"{budget.used:,} {budget.unit}" if budget else ""
    label = f"  [{manifest.label}]" if manifest.label else ""
    return (
        f"{mark} {name}  {_when(name)}  {_made_by(manifest):<40}  {counts.selected:,} of {counts.scored:,} rows"
        f"{f', {used}' if budget and budget.unit == 'tokens' else ''}{label}"
    )


def _when(name: str) -> str:
    return f"{name[:4]}-{name[4:6]}-{name[6:8]} {name[9:11]}:{name[11:13]} UTC"


def _made_by(manifest: Manifest) -> str:
    """The command that made a run, and of a selection what it was asked for otherwise than the run that it was made from."""
    if manifest.since is not None:
        return f"refresh since {manifest.since}"
    if manifest.parent is None:
        return "run"
    asked = {name: manifest.config.get(name) for name in ("score", "select", "seed")}
    changed = _flat(asked).items() - _flat({name: manifest.base.get(name) for name in asked}).items()
    words = ", ".join(f"{key}: {value}" for key, value in sorted(changed))
    return f"select from {manifest.parent}{f' ({words[:200]})' if words else ''}"


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and before.count(".") < 1:
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return flat


def last_of_settings(output: str, config: Config, current: str) -> str:
    """The run that a refresh compares with: the current one, or where that was made with other settings the newest with these;
    the current one where there is none."""
    wanted = _settings(config.model_dump())
    folder = urls.join(output, open_run.RUNS)
    newest = [urls.join(folder, name) for name in reversed(run_ids(folder)[-_MOST_LOOKED_AT:])]
    for run in [current, *newest]:
        try:
            if _settings(open_run.read_manifest(run).config) == wanted:
                return run
        except BadRequest:  # a damaged one is not compared with
            continue
    return current


def _settings(config: dict[str, Any]) -> Any:
    return json.loads(json.dumps({name: value for name, value in config.items() if name not in _NO_SETTINGS}))


def use(output: str, name: str) -> Summary:
    """Make a published run the current one, under the output's lock; raises BadRequest where it is not whole."""
    output = check_output(open_run.locate(output))
    run = _named(output, name)
    manifest = open_run.read_manifest(run)
    require_whole(run, manifest)
    with hold(output, "tss use") as lock:
        before = open_run.current_run(output)
        if before == run:
            return Summary(run, f"current      {run}, as before")
        # `keep_runs` of another command may have removed it before this one had the lock.
        require_whole(run, open_run.read_manifest(run))
        move_pointer(output, f"{open_run.RUNS}/{urls.name_of(run)}", lock.require)
    return Summary(run, f"current      {run}\nbefore       {before or 'none'}")


def _named(output: str, name: str) -> str:
    """The run of an id, the beginning of one, a path or a label; raises BadRequest."""
    folder = urls.join(output, open_run.RUNS)
    ids = run_ids(folder)
    wanted = name.rstrip("/").rpartition("/")[2]
    fitting = [wanted] if wanted in ids else [known for known in ids if wanted and known.startswith(wanted)]
    fitting = fitting or [known for known in ids if _label(urls.join(folder, known)) == name]
    if len(fitting) != 1:
        shown = ", ".join((fitting or ids)[-10:]) or "none"
        which = "several runs" if fitting else "no run"
        raise BadRequest(
            f"{name!r}: {which} of {output}; accepted: the id of one, its unique beginning, or its label: {shown}"
        )
    return urls.join(folder, fitting[0])


def _label(run: str) -> str | None:
    try:
        return open_run.read_manifest(run).label
    except BadRequest:
        return None


def require_whole(run: str, manifest: Manifest) -> None:
    """Raise BadRequest where a file of a run is missing or of another size than it was published with."""
    sizes = dict(files.list_files(run, deep=True))
    for parts in manifest.files.values():
        for record in open_run.parts_of(run, parts):
            if sizes.get(record.part.path) != record.part.bytes:
                raise BadRequest(
                    f"{record.part.path}: is missing or not as it was published; accepted: another run, or `tss run` again"
                )
