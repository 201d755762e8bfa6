"""The whole flow on one page: read, retrieve, place, recall, score, aggregate, select, publish; and again when the corpus has
changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import manifest, publish, published, report, scoring, selection, stages, storage, store, upkeep
from pipeline.bounded import score_bounded
from pipeline.config import Config
from pipeline.encode import Round
from pipeline.errors import RunFailed
from pipeline.job import Job, execute, over_parts
from pipeline.lock import hold
from pipeline.overlap import overlap
from pipeline.parts import Record
from pipeline.preflight import check_output, check_quota, check_shadowing
from pipeline.progress import Reporter
from pipeline.request import Request, requested, workspace_of
from pipeline.resources import pools, session
from pipeline.summary import Summary, summarise
from pipeline.workspace import Workspace, workspace

_TOKENS = {
    "in_pairs": "tokens",
    "forwarded": "forwarded_tokens",
}  # of computed pairs; what went through the model for them


@dataclass(frozen=True)
class Outcome:
    """What a run has found: parts and records of the scored rows, parts of the rejected ones, and what the manifest says."""

    scored: list[Record]
    rejected: list[Record]
    counts: dict[str, dict[str, Any]]
    pairs: dict[str, int]
    scorer: dict[str, Any]
    facts: dict[str, Any]
    work: dict[str, int] = field(default_factory=dict)


def run(config: Config, reporter: Reporter, *, fresh: bool = False) -> Summary:
    """The main job; goes on with the same request where it was interrupted, unless `fresh`. Raises BadRequest before any work,
    RunFailed after."""
    with requested("tss run", config, reporter, fresh) as request, workspace_of(request) as own:
        return _publish_scored(request, own, {})


def refresh(config: Config, reporter: Reporter, *, fresh: bool = False) -> Summary:
    """As `run`, on a corpus that may have changed since the output's current run; says what has. Where nothing that scores
    follow from has, they are taken from that run."""
    with requested("tss refresh", config, reporter, fresh) as request:
        latest = published.latest_run(request.output)
        if latest is None:
            reporter.say("refresh      there is no earlier run to compare with")
            with workspace_of(request) as own:
                return _publish_scored(request, own, {})
        known = published.read_manifest(latest)
        with workspace_of(request) as own:
            if known.get("content") == request.content and not fresh:
                reporter.say(f"refresh      nothing that scores follow from has changed since {known['run']}")
                try:
                    return _publish_rescored(request.job(own), own, latest, known, since=latest)
                except RunFailed as failure:
                    if "is damaged" not in failure.cause and "is gone" not in failure.cause:
                        raise
                    reporter.say(f"refresh      {failure.cause}; its rows are made again")
            return _publish_scored(request, own, {"since": latest})


def select(config: Config, parent: str, reporter: Reporter) -> Summary:
    """Score and select anew from the likelihoods of a published run, without a model, and publish that as a new run."""
    check_shadowing()
    output = check_output(config.output)
    known = published.read_manifest(parent)
    check_quota(config, set(known["counts"]["sources"]))
    selection.require_columns(config, known["columns"])
    selection.require_comparable(config, known["counts"].get("bounded", 0))
    with hold(output, "tss select") as lock, session(config.ray.address):
        asked = {name: config.model_dump()[name] for name in ("score", "select", "seed")}
        identity = storage.digest_of(json.dumps([parent, asked]).encode())
        with workspace(output, lock, identity) as own:
            job = Job(config, own.folder, own.run_id, pools(config), reporter)
            return _publish_rescored(job, own, parent, known)


def _publish_scored(request: Request, own: Workspace, facts: dict[str, Any]) -> Summary:
    if own.whole:
        return _point(own)
    job = request.job(own)
    outcome = _score(job, request, own)
    return _select_and_publish(job, own, replace(outcome, facts={**outcome.facts, **facts}))


def _score(job: Job, request: Request, own: Workspace) -> Outcome:
    config, checked = request.config, request.checked
    read = stages.read(job, request.chunks, checked)
    admitted = [part for record in read for part in record["admitted"]]
    counts = manifest.admitted_counts(read)
    manifest.require_rows(counts)
    manifest.require_few_rejected(counts, config.max_rejected_fraction, "read")
    columns = sorted({key for record in read for key in record["keys"]})
    selection.require_columns(config, columns)

    embeddings = store.embedder_folder(own.output, checked.embedder)
    index = stages.retrieve_alternatives(job, admitted, request.pool_texts, embeddings)
    named = checked.scorer(request.dtype)
    scorer = scoring.Scorer(
        checked.encoder, checked.model(request.dtype), store.scorer_folder(own.output, named["fingerprint"])
    )
    upkeep.describe(scorer.folder, named)
    placed, damaged = scoring.recall_pairs(job, stages.place_rows(job, admitted, index["tokens"]), scorer.folder)
    blocks = scoring.fresh_blocks(placed)
    if config.select.mode == "bounded":
        blocks = score_bounded(job, blocks, sum(part["rows"] for part in admitted), scorer)
    else:
        blocks = scoring.score_blocks(job, blocks, scorer, Round())  # likelihoods and scores
    rejected = [part for record in [*read, *blocks] for part in record["rejected"]]
    facts = {
        "inputs": request.inputs,
        "content": request.content,
        "columns": columns,
        "instructions": index["instructions"],
        "pool": index["pool"],
        "embedder": checked.embedder,
        "damaged": [*index["damaged"], *damaged],
        # What `tss select` starts from, whatever selections came between.
        "base": {"score": config.score.model_dump(), "select": config.select.model_dump(), "seed": config.seed},
    }
    counts = manifest.add_scored(counts, blocks)
    manifest.require_rows(counts)
    manifest.require_few_rejected(counts, config.max_rejected_fraction, "score")
    work = manifest.work_of(blocks)
    pairs = manifest.pairs_of(work, own.resumed)
    scorer_facts = {**named, "loaded": work.get("loaded", 0)}
    return Outcome(scoring.scored_of(blocks), rejected, counts, pairs, scorer_facts, facts, work)


def _publish_rescored(
    job: Job, own: Workspace, parent: str, known: dict[str, Any], since: str | None = None
) -> Summary:
    if own.whole:
        return _point(own)
    bounded = known["counts"].get("bounded", 0)
    blocks = scoring.rescore(job, published.parts_of(parent, known["files"]["scored"]))
    selection.require_scores(job, scoring.scored_of(blocks), bounded)
    parts = [part for part in published.parts_of(parent, known["files"]["rejected"]) if part["rows"]]
    rejected = execute("rejected", over_parts(parts, publish.copy_parts, work=job.work)) if parts else []
    rejected.sort(key=lambda record: record["block"])
    kept = ("columns", "instructions", "pool", "inputs", "content", "embedder")
    facts = {"parent": known["run"], **{name: known[name] for name in kept if name in known}}
    facts["base"] = {"seed": known["config"]["seed"], **known["base"]}
    if since:
        asked = job.config
        facts["since"] = since
        facts["base"] = {"score": asked.score.model_dump(), "select": asked.select.model_dump(), "seed": asked.seed}
    counts = {
        source: {name: value for name, value in one.items() if name != "selected"}
        for source, one in known["counts"]["sources"].items()
    }
    pairs = {"computed": 0, "reused": known["pairs"]["computed"] + known["pairs"]["reused"], "stored": 0, "resumed": 0}
    scorer = {**known["scorer"], "loaded": 0}
    return _select_and_publish(job, own, Outcome(scoring.scored_of(blocks), rejected, counts, pairs, scorer, facts))


def _point(own: Workspace) -> Summary:
    """End a run that died between its last two steps."""
    run = publish.point(own)
    return summarise(published.read_manifest(run), run)


def _select_and_publish(job: Job, own: Workspace, outcome: Outcome) -> Summary:
    chosen = selection.select(job, outcome.scored)
    counts = manifest.in_all(manifest.add_selected(outcome.counts, chosen.sources))
    overlapping = overlap(job, outcome.scored, chosen, counts["bounded"])
    digest = stages.digest_scores(job, outcome.scored)
    facts = {**outcome.facts, **_changes(job, outcome, chosen)}
    files = publish.gather(job, own, {"scored": outcome.scored, "selected": chosen.parts, "rejected": outcome.rejected})
    content = {
        "run": own.run_id,
        "config": job.config.model_dump(),
        "versions": manifest.versions(),
        "scorer": outcome.scorer,
        "counts": counts,
        "pairs": outcome.pairs,
        "tokens": {name: outcome.work.get(key, 0) for name, key in _TOKENS.items()},
        "budget": {"asked": chosen.asked, "unit": chosen.unit, "used": chosen.used, "corpus": chosen.total},
        "eligible": chosen.eligible,
        "scores": digest.shown(),
        "overlap": overlapping,
        "seed": job.config.seed,
        "timings": {name: round(seconds, 3) for name, seconds in job.reporter.timings.items()},
        "files": files,
        **facts,
    }
    run = publish.publish(own, content, report.page(content))
    for old in publish.remove_old_runs(own.output, run, job.config.keep_runs):
        job.reporter.say(f"keep_runs    {old} removed")
    upkeep.compact_if_many(job.reporter, own.output)
    return summarise(content, run)


def _changes(job: Job, outcome: Outcome, chosen: selection.Selection) -> dict[str, Any]:
    """What a refresh says of the run before it, which must not keep it from being published."""
    if "since" not in outcome.facts:
        return {}
    since = outcome.facts["since"]
    known = published.read_manifest(since)
    before = {kind: published.parts_of(since, known["files"][kind]) for kind in ("scored", "selected")}
    named = {"since": known["run"]}
    try:
        return {**named, "changes": stages.compare(job, before, {"scored": outcome.scored, "selected": chosen.parts})}
    except RunFailed as failure:
        job.reporter.say(f"changes      not known: {failure.cause}")
        return {**named, "changes": None}
