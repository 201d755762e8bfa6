"""Care of an output's store: what it holds, fewer and larger parts, and what is of no use any more."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from operators.error_text import first_line
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, RunFailed
from pipeline.runs import open_run, publish, workspace
from pipeline.runs.compact import BYTES_PER_PART, KINDS, rewrite
from pipeline.runs.output import working_on
from pipeline.runs.summary import Summary
from pipeline.storage import computed, files, urls
from pipeline.storage.parts import DamagedPart
from pipeline.storage.records import Part

_LOOKS = 10
PARTS_AT_MOST = 512  # of one scorer or embedder; a run that leaves more joins them
_UNITS = {computed.LIKELIHOODS: "pairs", computed.EMBEDDINGS: "instructions", computed.GENERATED: "inputs"}


def stats(output: str, reporter: Reporter) -> Summary:
    """What is stored, by scorer and embedder, every byte of it checked; raises BadRequest."""
    output = _existing(output)
    lines = [line for kind in KINDS for folder in _folders(output, kind) for line in _stored(kind, folder)]
    return Summary(output, "\n".join(lines or ["nothing is stored here yet"]))


def _stored(kind: str, folder: str) -> list[str]:
    """What a folder of the store holds, for people. Parts that go while they are looked at were joined by upkeep, so the folder
    is listed again; raises RunFailed where that never ends."""
    for _ in range(_LOOKS):
        parts = computed.parts(folder)
        try:
            damaged = [*_damaged(folder), *(path for path, _ in parts if not _is_sound(path))]
        except FileNotFoundError:
            continue
        return [
            f"{kind:<12} {urls.name_of(folder)}  {len(parts):,} parts, {sum(size for _, size in parts):,} bytes, "
            f"{computed.pairs_of(path for path, _ in parts):,} {_UNITS[kind]}{_by_scorer(folder)}",
            *(f"{'':<12} damaged: {path}" for path in damaged),
        ]
    raise RunFailed(
        "store", f"{folder}: its parts change faster than they can be read; upkeep is under way, try again later"
    )


def compact(output: str, reporter: Reporter) -> Summary:
    """Join the parts of each scorer and embedder into large ones; raises BadRequest, RunFailed."""
    output = _existing(output)
    with working_on(output, "tss store compact", None):
        lines = []
        for kind in KINDS:
            for folder in _folders(output, kind):
                kept = _unfinished(output, folder)
                if len(_small(folder, kept)) > 1:
                    lines.append(_joined(reporter, kind, folder, kept))
                elif kept:
                    lines.append(f"{kind:<12} {urls.name_of(folder)}  nothing to compact{_of_unfinished(kept)}")
    return Summary(output, "\n".join(lines or ["nothing to compact"]))


def prune(output: str, reporter: Reporter) -> Summary:
    """Remove what no published run uses: whole scorers and embedders, pairs of rows that are gone, damaged parts, and drafts of
    writes that were cut off. Raises BadRequest, RunFailed."""
    output = _existing(output)
    with working_on(output, "tss store prune", None):
        runs = _published(output)
        if not runs:
            raise BadRequest(
                f"{output}: no run is published here, so all of the store may still be wanted; accepted: an output "
                "with a published run. To give the store up, remove the folder yourself"
            )
        lines = []
        for kind in KINDS:
            for folder in _folders(output, kind):
                using = [run for run in runs if run.names[kind] == urls.name_of(folder)]
                lines.append(_pruned(reporter, kind, folder, using, _unfinished(output, folder)))
    return Summary(output, "\n".join(lines or ["nothing to prune"]))


def after_run(reporter: Reporter, this: workspace.Workspace, former: str | None, keep_runs: int | None) -> None:
    """Remove old runs, join parts that have grown many. The run is published: what fails here is said, and no more."""
    try:
        if not this.lock.held():  # somebody has taken over, and this output is theirs
            return
        for old in publish.remove_old_runs(this.output, this.final, former, keep_runs):
            reporter.say(f"keep_runs    {old} removed")
        for kind in KINDS:
            for folder in _folders(this.output, kind):
                kept = _unfinished(this.output, folder, this.run_id)
                if len(_small(folder, kept)) > PARTS_AT_MOST:
                    reporter.say(_joined(reporter, kind, folder, kept))
    except (RunFailed, OSError, pa.ArrowException) as failure:
        reporter.say(f"upkeep       not done, and the run is published: {failure}; `tss store compact` does it later")


def _existing(output: str) -> str:
    output = open_run.locate(output)
    try:
        stored = any(files.exists(urls.join(output, kind)) for kind in KINDS)
    except (OSError, pa.ArrowException) as error:
        raise BadRequest(f"{output}: cannot be reached: {first_line(error)}") from error
    if not stored:
        raise BadRequest(f"{output}: no store here; accepted: an output folder of `tss run`")
    return output


def _folders(output: str, kind: str) -> list[str]:
    folder = urls.join(output, kind)
    return [urls.join(folder, name) for name in files.list_folders(folder)]


def _damaged(folder: str) -> list[str]:
    """Parts that were found damaged and set aside."""
    return [path for path, _ in files.list_files(folder, deep=True) if path.endswith(computed.DAMAGED)]


def _is_sound(path: str) -> bool:
    try:
        computed.checked(path)
    except DamagedPart:
        return False
    return True


def _by_scorer(folder: str) -> str:
    try:
        scorer = json.loads(files.read(urls.join(folder, computed.SCORER)))
        return f" by {scorer['model']}" + (f" in {scorer['dtype']}" if scorer["dtype"] else "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # a note for people, and it has none or no whole one


def _small(folder: str, kept: list[str]) -> list[tuple[str, str, int]]:
    """(run, path, bytes) of the parts that are worth joining: not those of the runs in `kept`, which will look for them."""
    return [part for part in computed.by_run(folder) if part[0] not in kept and part[2] < BYTES_PER_PART // 2]


def _unfinished(output: str, folder: str, but: str = "") -> list[str]:
    """Runs that were interrupted and have parts there, which they will look for under their own names."""
    runs = files.list_folders(urls.join(output, workspace.WORK))
    return [run for run in runs if run != but and computed.parts(urls.join(folder, run))]


@dataclass(frozen=True)
class _Using:
    """What a published run uses of the store."""

    scored: list[Part]
    names: dict[str, str | None]  # by kind, the folder of its scorer, embedder and generator


def _published(output: str) -> list[_Using]:
    """What each published run uses; raises BadRequest where that is not known of one."""
    using = []
    folder = urls.join(output, open_run.RUNS)
    for name in workspace.run_ids(folder):
        run = urls.join(folder, name)
        if files.exists(urls.join(run, open_run.MANIFEST)):
            try:
                manifest = open_run.read_manifest(run)
            except BadRequest as problem:
                raise BadRequest(
                    f"it is not known what {run} uses, so nothing is removed: mend or remove that run ({problem})"
                ) from problem
            scored = [record.part for record in open_run.parts_of(run, manifest.files["scored"])]
            names = {
                computed.LIKELIHOODS: manifest.scorer.fingerprint,
                computed.EMBEDDINGS: manifest.embedder,
                computed.GENERATED: manifest.generator.fingerprint if manifest.generator else None,
            }
            using.append(_Using(scored, names))
    return using


def _of_unfinished(kept: list[str]) -> str:
    """Why some parts were left alone, and what to do about it."""
    if not kept:
        return ""
    folders = ", ".join(f"{workspace.WORK}/{run}" for run in kept)
    return f"; parts of interrupted runs are left alone: run them to their end, or remove {folders}"


def _pruned(reporter: Reporter, kind: str, folder: str, runs: list[_Using], kept: list[str]) -> str:
    before = computed.pairs_of(path for path, _ in computed.parts(folder))
    name = f"{kind:<12} {urls.name_of(folder)}"
    if not runs and not kept:
        files.delete_folder(folder)
        return f"{name}  removed: no published run uses it ({before:,} rows)"
    files.delete_drafts(folder)
    wanted = [part for run in runs for part in run.scored]
    old = [part for part in computed.by_run(folder) if part[0] not in kept]
    rewrite(reporter, kind, folder, old, wanted if kind == computed.LIKELIHOODS or not runs else None)
    after = computed.pairs_of(path for path, _ in computed.parts(folder))
    damaged = _damaged(folder)
    for path in damaged:
        files.delete(path)
    with_them = f", {len(damaged):,} damaged parts with them" if damaged else ""
    return f"{name}  {before - after:,} of {before:,} rows removed{with_them}{_of_unfinished(kept)}"


def _joined(reporter: Reporter, kind: str, folder: str, kept: list[str]) -> str:
    before, damaged_before = len(computed.parts(folder)), len(_damaged(folder))
    rewrite(reporter, kind, folder, _small(folder, kept))
    damaged = len(_damaged(folder)) - damaged_before
    left_out = f"; {damaged:,} were damaged and are left out" if damaged else ""
    became = f"{before:,} parts became {len(computed.parts(folder)):,}"
    return f"{kind:<12} {urls.name_of(folder)}  {became}{left_out}{_of_unfinished(kept)}"
