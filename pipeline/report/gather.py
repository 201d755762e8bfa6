"""The material of a report: one pass over the parts of a run, as tasks of Ray or here, and the few rows that are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

from operators.row_ids import share_for
from operators.scoring.scores import ScoreSettings
from pipeline.config_select import Select
from pipeline.engine.job import Job, once
from pipeline.engine.light_pass import light_tables
from pipeline.errors import BadRequest
from pipeline.report import tally as counting
from pipeline.report.rows import Material, Wanted, pick, read_rows
from pipeline.report.tally import BEFORE, SCORED, SELECTION, Look, Looked, Tally, joined, tally_of
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.selection.rank_values import Count, by_tasks, in_this_process, without_ranks
from pipeline.storage import urls
from pipeline.storage.records import BlockPart


@dataclass(frozen=True)
class Gathered:
    """What a report is made of beside the manifest."""

    tally: Tally
    look: Look
    material: Material
    capped: bool  # whether a column has more groups than are counted


def gather(job: Job, manifest: Manifest, run: str, earlier: str | None) -> Gathered:
    """Of a run whose parts lie in `run`, and which was compared with an earlier one, as tasks of Ray: the driver holds what a
    tally holds, and no text but of the rows that are shown. Raises RunFailed."""

    def tallied(looked: list[Looked], look: Look) -> Tally:
        made = light_tables("report", looked, counting.tally_parts, look=asdict(look))
        return joined(counting.received(table) for table in made if "name" in table.column_names)

    def read(wanted: Wanted) -> Material:
        material: Material = once("report", read_rows, wanted)
        return material

    return _gathered(manifest, run, earlier, tallied, read, by_tasks)


def gather_here(manifest: Manifest, run: str) -> Gathered:
    """The same of a published run in this process, part by part. Raises DamagedPart, OSError, ArrowException."""

    def tallied(looked: list[Looked], look: Look) -> Tally:
        return joined(tally_of(each, look) for each in looked)

    earlier = None if manifest.since is None else urls.join(urls.parent_of(run), manifest.since)
    return _gathered(manifest, run, earlier, tallied, read_rows, in_this_process)


def _gathered(
    manifest: Manifest,
    run: str,
    earlier: str | None,
    tallied: Callable[[list[Looked], Look], Tally],
    read: Callable[[Wanted], Material],
    count: Count,
) -> Gathered:
    looked = [Looked(each.part, kind) for kind in (SCORED, SELECTION) for each in _parts(run, manifest, kind)]
    look = look_of(manifest)
    look = replace(look, where=without_ranks(_parts(run, manifest, SCORED), look.where, count))
    tally = tallied([*looked, *_before(manifest, earlier)], look)
    rejected, selected = ([each.part.path for each in _parts(run, manifest, kind)] for kind in ("rejected", SELECTION))
    material = read(Wanted(pick(tally, look, temperature_of(manifest)), rejected, selected))
    return Gathered(tally, look, material, _is_capped(tally))


def _is_capped(tally: Tally) -> bool:
    if "groups" not in tally:
        return False
    counts = tally["groups"].group_by(["of", "column"]).aggregate([([], "count_all")])
    return bool(max(counts["count_all"].to_pylist(), default=0) >= counting.MOST_GROUPS)


def _before(manifest: Manifest, earlier: str | None) -> list[Looked]:
    """The parts of the selection that a refresh compares with, as far as that run is still there."""
    if earlier is None or manifest.changes is None:
        return []
    known = read_earlier(earlier)
    return [] if known is None else [Looked(record.part, BEFORE) for record in _parts(earlier, known, SELECTION)]


def _parts(folder: str, known: Manifest, kind: str) -> list[BlockPart]:
    return [record for record in open_run.parts_of(folder, known.files[kind]) if record.part.rows]


def read_earlier(run: str) -> Manifest | None:
    """The manifest of the run that a refresh compares with; None where there is none any more."""
    try:
        return open_run.read_manifest(run)
    except BadRequest as problem:
        open_run.require_readable(problem)
        return None


def look_of(manifest: Manifest) -> Look:
    """What is looked for in the rows of a run."""
    select = manifest.config["select"]
    ((unit, _),) = select["budget"].items()
    # Early releases computed other formulas, with other constants.
    settings, names = manifest.config.get("score") or {}, {field.name for field in fields(ScoreSettings)}
    return Look(
        share=share_for(counting.SAMPLE, manifest.counts.scored),
        score=select["score"] if isinstance(select["score"], str) and select.get("unit") != "conversation" else None,
        where=select.get("where"),
        cost="rows" if unit.startswith("example") else select.get("cost", "total"),
        tasks="task" in manifest.columns,
        settings=settings if settings.keys() == names else {},
    )


def temperature_of(manifest: Manifest) -> float:
    """At which temperature the selection was drawn; 0 for a ranking."""
    select = manifest.config["select"]
    return Select.model_construct(**select).drawn_at if "temperature" in select else 0.0  # early releases had none
