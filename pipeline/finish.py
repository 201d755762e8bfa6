"""The end of every run, whatever its rows come from: select, compare, gather, publish, tidy up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from operators.scoring.score_rows import Work
from pipeline.engine import metrics
from pipeline.engine.job import Job, execute, over_parts
from pipeline.errors import DamagedInput
from pipeline.reading.snapshot import InputFile
from pipeline.runs import accounts, maintenance, open_run, publish, report
from pipeline.runs.changes import compare
from pipeline.runs.manifest import Budget, Counts, Manifest, Pairs, RowChanges, ScorerName, Tokens
from pipeline.runs.score_digest import digest_scores
from pipeline.runs.summary import Summary, summarise
from pipeline.runs.workspace import Workspace
from pipeline.scoring.rescore import rescore
from pipeline.selection import choose
from pipeline.selection.overlap import overlap
from pipeline.storage.records import BlockPart, Part


@dataclass(frozen=True)
class Origin:
    """What the scored rows of a run follow from, as its manifest says."""

    inputs: list[InputFile]
    content: str | None
    columns: list[str]
    instructions: int
    pool: int
    embedder: str | None
    base: dict[str, Any]
    damaged: list[str] = field(default_factory=list)
    parent: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run has made before it selects: scored rows, rejected ones, their accounts; `since` is the run that it is compared
    with."""

    scored: list[BlockPart]
    rejected: list[Part]
    counts: dict[str, Counts]
    pairs: Pairs
    scorer: ScorerName
    origin: Origin
    work: Work = field(default_factory=Work)
    since: str | None = None


def finish_rescored(
    job: Job, workspace: Workspace, parent: str, manifest: Manifest, since: str | None = None
) -> Summary:
    """Select and publish from the likelihoods of a published run, `known` by its manifest; raises DamagedInput where a part of
    it is not what was published."""
    if workspace.whole:
        return finish(job, workspace, None)
    scored = rescore(job, open_run.parts_of(parent, manifest.files["scored"]))
    choose.require_scores(job, scored, manifest.counts.bounded)
    parts = [record for record in open_run.parts_of(parent, manifest.files["rejected"]) if record.part.rows]
    copied = execute("rejected", BlockPart, over_parts(parts, publish.copy_parts, work=job.work)) if parts else []
    base = accounts.base_of(job.config) if since else {"seed": manifest.config["seed"], **manifest.base}
    outcome = Outcome(
        scored=scored,
        rejected=[record.part for record in sorted(copied, key=lambda record: record.block)],
        counts={source: replace(rows, selected=0) for source, rows in manifest.counts.sources.items()},
        pairs=Pairs(computed=0, reused=manifest.pairs.computed + manifest.pairs.reused),
        scorer=replace(manifest.scorer, loaded=0),
        origin=Origin(
            inputs=manifest.inputs,
            content=manifest.content,
            columns=manifest.columns,
            instructions=manifest.instructions,
            pool=manifest.pool,
            embedder=manifest.embedder,
            base=base,
            parent=manifest.run,
        ),
        since=since,
    )
    return finish(job, workspace, outcome)


def finish(job: Job, workspace: Workspace, outcome: Outcome | None) -> Summary:
    """Select and publish; without an outcome the run is whole, and only the pointer does not name it yet."""
    if outcome is None:
        run = publish.point(workspace)
        return summarise(open_run.read_manifest(run), run)
    chosen = choose.select(job, outcome.scored)
    manifest = _manifest(job, workspace, outcome, chosen)
    former = publish.current_run(workspace.output)
    run = publish.publish(workspace, manifest, report.page(manifest))
    maintenance.after_run(job.reporter, workspace, former, job.config.keep_runs)
    return summarise(manifest, run)


def _manifest(job: Job, workspace: Workspace, outcome: Outcome, chosen: choose.Selection) -> Manifest:
    """Gather the parts of the run; its manifest."""
    counts = accounts.in_all(accounts.add_selected(outcome.counts, chosen.sources))
    metrics.count("tss_rows", counts.selected, outcome="selected")
    overlapping = overlap(job, outcome.scored, chosen, counts.bounded)
    digest = digest_scores(job, outcome.scored)
    since, changes = _changes(job, outcome, chosen)
    workspace.lock.require()  # parts are moved to a place that another attempt at this run would share
    kinds = {"scored": _parts(outcome.scored), "selected": _parts(chosen.parts), "rejected": outcome.rejected}
    return Manifest(
        run=workspace.run_id,
        config=job.config.model_dump(),
        versions=accounts.versions(),
        scorer=outcome.scorer,
        counts=counts,
        pairs=outcome.pairs,
        tokens=Tokens(outcome.work.tokens, outcome.work.forwarded_tokens),
        budget=Budget(chosen.asked, chosen.unit, chosen.used, chosen.total),
        eligible=chosen.eligible,
        scores=digest.shown(),
        overlap=overlapping,
        seed=job.config.seed,
        files=publish.gather(job, workspace, kinds),
        timings={name: round(seconds, 3) for name, seconds in job.reporter.timings.items()},
        since=since,
        changes=changes,
        **vars(outcome.origin),
    )


def _parts(records: list[BlockPart]) -> list[Part]:
    return [record.part for record in records]


def _changes(job: Job, outcome: Outcome, chosen: choose.Selection) -> tuple[str | None, dict[str, RowChanges] | None]:
    """What a refresh says of the run before it, which must not keep it from being published."""
    if outcome.since is None:
        return None, None
    manifest = open_run.read_manifest(outcome.since)
    before = {kind: open_run.parts_of(outcome.since, manifest.files[kind]) for kind in ("scored", "selected")}
    try:
        return manifest.run, compare(job, before, {"scored": outcome.scored, "selected": chosen.parts})
    except DamagedInput as damaged:
        job.reporter.say(f"changes      not known: {damaged.cause}")
        return manifest.run, None
