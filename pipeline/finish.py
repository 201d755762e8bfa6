"""The end of every run, whatever its rows come from: select, compare, gather, publish, tidy up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.engine import metrics
from pipeline.engine.job import Job, execute, over_parts
from pipeline.errors import DamagedInput
from pipeline.runs import accounts, maintenance, open_run, publish, report
from pipeline.runs.changes import compare
from pipeline.runs.score_digest import digest_scores
from pipeline.runs.summary import Summary, summarise
from pipeline.runs.workspace import Workspace
from pipeline.scoring import rounds
from pipeline.scoring.rescore import rescore
from pipeline.selection import choose
from pipeline.selection.overlap import overlap
from pipeline.storage.parts import Record

# Of computed pairs; what went through the model for them.
_TOKENS = {"in_pairs": "tokens", "forwarded": "forwarded_tokens"}


@dataclass(frozen=True)
class Outcome:
    """What a run has found: parts and records of the scored rows, parts of the rejected ones, and what the manifest says;
    `since` is the run that it is compared with."""

    scored: list[Record]
    rejected: list[Record]
    counts: dict[str, dict[str, Any]]
    pairs: dict[str, int]
    scorer: dict[str, Any]
    facts: dict[str, Any]
    work: dict[str, int] = field(default_factory=dict)
    since: str | None = None


def finish_rescored(job: Job, own: Workspace, parent: str, known: dict[str, Any], since: str | None = None) -> Summary:
    """Select and publish from the likelihoods of a published run, `known` by its manifest; raises DamagedInput where a part of
    it is not what was published."""
    if own.whole:
        return finish(job, own, None)
    blocks = rescore(job, open_run.parts_of(parent, known["files"]["scored"]))
    scored = rounds.scored_of(blocks)
    choose.require_scores(job, scored, known["counts"].get("bounded", 0))
    parts = [part for part in open_run.parts_of(parent, known["files"]["rejected"]) if part["rows"]]
    rejected = execute("rejected", over_parts(parts, publish.copy_parts, work=job.work)) if parts else []
    kept = ("columns", "instructions", "pool", "inputs", "content", "embedder")
    facts = {"parent": known["run"], **{name: known[name] for name in kept if name in known}}
    facts["base"] = accounts.base_of(job.config) if since else {"seed": known["config"]["seed"], **known["base"]}
    counts = {
        source: {name: value for name, value in one.items() if name != "selected"}
        for source, one in known["counts"]["sources"].items()
    }
    reused = known["pairs"]["computed"] + known["pairs"]["reused"]
    pairs = {"computed": 0, "reused": reused, "stored": 0, "resumed": 0}
    rejected.sort(key=lambda record: record["block"])
    named = {**known["scorer"], "loaded": 0}
    return finish(job, own, Outcome(scored, rejected, counts, pairs, named, facts, since=since))


def finish(job: Job, own: Workspace, outcome: Outcome | None) -> Summary:
    """Select and publish; without an outcome the run is whole, and only the pointer does not name it yet."""
    if outcome is None:
        run = publish.point(own)
        return summarise(open_run.read_manifest(run), run)
    chosen = choose.select(job, outcome.scored)
    counts = accounts.in_all(accounts.add_selected(outcome.counts, chosen.sources))
    metrics.count("tss_rows", counts["selected"], outcome="selected")
    overlapping = overlap(job, outcome.scored, chosen, counts["bounded"])
    digest = digest_scores(job, outcome.scored)
    changes = _changes(job, outcome, chosen)
    own.lock.require()  # parts are moved to a place that another attempt at this run would share
    files = publish.gather(job, own, {"scored": outcome.scored, "selected": chosen.parts, "rejected": outcome.rejected})
    content = {
        "run": own.run_id,
        "config": job.config.model_dump(),
        "versions": accounts.versions(),
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
        **outcome.facts,
        **changes,
    }
    former = publish.current_run(own.output)
    run = publish.publish(own, content, report.page(content))
    maintenance.after_run(job.reporter, own, former, job.config.keep_runs)
    return summarise(content, run)


def _changes(job: Job, outcome: Outcome, chosen: choose.Selection) -> dict[str, Any]:
    """What a refresh says of the run before it, which must not keep it from being published."""
    if outcome.since is None:
        return {}
    known = open_run.read_manifest(outcome.since)
    before = {kind: open_run.parts_of(outcome.since, known["files"][kind]) for kind in ("scored", "selected")}
    try:
        found = compare(job, before, {"scored": outcome.scored, "selected": chosen.parts})
        return {"since": known["run"], "changes": found}
    except DamagedInput as damaged:
        job.reporter.say(f"changes      not known: {damaged.cause}")
        return {"since": known["run"], "changes": None}
