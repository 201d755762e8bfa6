"""The end of every run, whatever its rows come from: select, compare, gather, publish, tidy up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from operators.error_text import first_line
from pipeline import failures
from pipeline.engine import metrics
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.errors import BadRequest, DamagedInput, RunFailed
from pipeline.report import make
from pipeline.runs import accounts, maintenance, open_run, publish, verdict_words
from pipeline.runs.changes import compare
from pipeline.runs.manifest import AllCounts, Budget, Manifest, Pairs, RowChanges, Tokens
from pipeline.runs.score_digest import digest_scores
from pipeline.runs.summary import Summary, summarise
from pipeline.runs.verdict import judge
from pipeline.runs.workspace import Workspace
from pipeline.scoring.rescore import rescore
from pipeline.selection import choose
from pipeline.selection.bounded import pilot_share
from pipeline.selection.conversations import require_conversations
from pipeline.selection.overlap import overlap
from pipeline.selection.weigh import weigh
from pipeline.storage.records import BlockPart, Overlap, Part, Verdict


@dataclass(frozen=True)
class Outcome:
    """What a run has made before it selects: scored rows, rejected ones, what its manifest says so far, near duplicates."""

    scored: list[BlockPart]
    rejected: list[Part]
    manifest: Manifest
    near_duplicates: list[Part] | None = None  # where they were looked for


def finish_rescored(job: Job, workspace: Workspace, parent: str, known: Manifest, since: str | None = None) -> Summary:
    """Select and publish from the likelihoods of a published run, `known` by its manifest; raises DamagedInput where a part of
    it is not what was published, and BadRequest where the selection cannot be made of it."""
    if workspace.whole:
        return finish(job, workspace, None)
    scored = rescore(job, open_run.parts_of(parent, known.files["scored"]))
    choose.require_scores(job, scored, known.counts.bounded)
    if since is None and job.config.select.unit == "conversation":  # a selection that somebody asked for by hand
        require_conversations(scored)
    copied = {
        kind: _copied(job, parent, known, kind) for kind in ("rejected", "near_duplicates") if kind in known.files
    }
    manifest = replace(
        known,
        pairs=Pairs(computed=0, reused=known.pairs.computed + known.pairs.reused),
        scorer=replace(known.scorer, loaded=0),
        base=accounts.base_of(job.config) if since else {"seed": known.config["seed"], **known.base},
        tokens=Tokens(),
        alternatives=known.alternatives and known.alternatives.recalled(),
        damaged=[],
        parent=known.run,
    )
    outcome = Outcome(scored, copied["rejected"], manifest, copied.get("near_duplicates"))
    return finish(job, workspace, outcome, since)


def _copied(job: Job, parent: str, known: Manifest, kind: str) -> list[Part]:
    """The parts of a kind of a published run, copied, in their order."""
    parts = [record for record in open_run.parts_of(parent, known.files[kind]) if record.part.rows]
    if not parts:
        return []
    records = light_pass(kind, BlockPart, parts, publish.copy_parts, work=job.work)
    return _parts(sorted(records, key=lambda record: record.block))


def finish(job: Job, workspace: Workspace, outcome: Outcome | None, since: str | None = None) -> Summary:
    """Select and publish, and compare with the run `since`; without an outcome the run is whole, and only the pointer does not
    name it yet."""
    if outcome is None:
        run = publish.point(workspace, job.reporter.say)
        return summarise(open_run.read_manifest(run), run)
    scored, moments = weigh(job, outcome.scored)
    outcome = replace(outcome, scored=scored)
    chosen = choose.select(job, scored, moments)
    _require_rows(job, outcome.manifest, chosen)
    manifest = _completed(job, workspace, outcome, chosen, since)
    former = open_run.current_run(workspace.output)
    page, problem = _report(job, workspace, manifest, since)
    manifest = replace(manifest, timings=_timings(job), report=publish.listed(page, problem))
    run = publish.publish(workspace, manifest, page, job.reporter.say)
    maintenance.after_run(job.reporter, workspace, former, job.config.keep_runs)
    return summarise(manifest, run)


def _report(job: Job, workspace: Workspace, manifest: Manifest, since: str | None) -> tuple[str, str | None]:
    """The page of a run that is about to be published, and what was wrong with it: no run is lost for its page, and what failed
    stands in a log, on the page, in the manifest and in the summary."""
    try:
        return make.report_of(job, manifest, workspace.staged, since), None
    except Exception as error:  # noqa: BLE001 (whatever it is: the run is whole without its page)
        log = failures.keep_log(error, "report", workspace.output)
        problem = f"{first_line(error)[:300]} (the traceback is in {log})"
        job.reporter.say(
            f"report       without figures of rows: {problem}; the run is whole, and `tss report RUN --open` tries "
            "again"
        )
        return make.report_without_rows(manifest, problem), problem


def _timings(job: Job) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in job.reporter.timings.items()}


def _require_rows(job: Job, manifest: Manifest, chosen: choose.Selection) -> None:
    """Raise BadRequest, of a run that has been scored for it RunFailed, where nothing is selected and nobody has allowed that:
    readers of the current run would have no rows all at once."""
    if chosen.sources or job.publishing.allow_empty:
        return
    why = "no row has a score and passes the filters"
    if alone := manifest.counts.unscored - manifest.counts.bounded:
        why += (
            f" ({alone:,} of {manifest.counts.scored:,} rows have no score, as no other instruction is an alternative "
            "to theirs; alternatives.pool can offer some)"
        )
    if chosen.eligible:
        why = f"of {chosen.asked:,} {chosen.unit} the first row of the ranking alone costs more"
    words = f"nothing would be selected: {why}; accepted: another select.where or select.budget, or --allow-empty"
    if manifest.parent is not None:
        raise BadRequest(f"select: {words}. Nothing was published")
    raise RunFailed("select", words)


def _completed(
    job: Job, workspace: Workspace, outcome: Outcome, chosen: choose.Selection, since: str | None
) -> Manifest:
    """Gather the parts of the run; its whole manifest."""
    manifest = outcome.manifest
    counts = accounts.in_all(accounts.add_selected(manifest.counts.sources, chosen.sources))
    metrics.count("tss_rows", counts.selected, outcome="selected")
    overlapping = overlap(job, outcome.scored, chosen, counts.bounded)
    scores = digest_scores(job, outcome.scored, counts.scored - counts.unscored)
    verdict = _verdict(job, outcome, counts, overlapping)
    compared, changes = _changes(job, since, {"scored": outcome.scored, "selected": chosen.parts})
    workspace.lock.require()  # parts are moved to a place that another attempt at this run would share
    kinds = {"scored": _parts(outcome.scored), "selected": _parts(chosen.parts), "rejected": outcome.rejected}
    if outcome.near_duplicates is not None:
        kinds["near_duplicates"] = outcome.near_duplicates
    return replace(
        manifest,
        run=workspace.run_id,
        config=job.config.model_dump(),
        versions=accounts.versions(),
        counts=counts,
        budget=Budget(chosen.asked, chosen.unit, chosen.used, chosen.total),
        eligible=chosen.eligible,
        scores=scores,
        overlap=overlapping,
        verdict=verdict,
        seed=job.config.seed,
        files=publish.gather(job, workspace, kinds),
        timings=_timings(job),
        since=compared,
        changes=changes,
        label=job.publishing.label or None,
        key=job.publishing.key or None,
    )


def _verdict(job: Job, outcome: Outcome, counts: AllCounts, overlapping: Overlap) -> Verdict:
    """The verdict on the run; raises RunFailed where it is a bad one and strict was asked."""
    below = pilot_share(counts.read) if counts.bounded else 1.0
    share = counts.selected / max(1, counts.scored)
    verdict = judge(job, outcome.scored, counts.scored, below, overlapping, share)
    if job.config.strict:
        verdict_words.require_fit(verdict)
    return verdict


def _parts(records: list[BlockPart]) -> list[Part]:
    return [record.part for record in records]


def _changes(
    job: Job, since: str | None, after: dict[str, list[BlockPart]]
) -> tuple[str | None, dict[str, RowChanges] | None]:
    """The run that a refresh compares with, and what it says of it, which must not keep it from being published."""
    if since is None:
        return None, None
    earlier = open_run.read_manifest(since)
    try:
        return earlier.run, compare(job, {kind: open_run.parts_of(since, earlier.files[kind]) for kind in after}, after)
    except DamagedInput as damaged:
        job.reporter.say(f"changes      not known: {damaged.cause}")
        return earlier.run, None
