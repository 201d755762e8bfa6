"""The whole flow on one page: read, retrieve, place, score, aggregate, select, publish."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import manifest, publish, report, selection, stages
from pipeline.bounded import score_bounded
from pipeline.config import Config
from pipeline.encode import Round
from pipeline.job import Job
from pipeline.overlap import overlap
from pipeline.parts import Record
from pipeline.preflight import Checked, check_models, check_output, check_quota, check_shadowing
from pipeline.progress import Reporter
from pipeline.resources import pools, scorer_dtype, session
from pipeline.retrieve import read_pool_file
from pipeline.sources import Chunk, plan
from pipeline.summary import Summary, summarise

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


def run(config: Config, reporter: Reporter) -> Summary:
    """The main job; raises BadRequest before any work, RunFailed after."""
    check_shadowing()
    output = check_output(config.output)
    chunks = plan(config)
    check_quota(config, {chunk.source for chunk in chunks})
    pool_texts = read_pool_file(config.alternatives.pool) if config.alternatives.pool else None
    checked = check_models(config)
    with publish.workspace(output) as own, session(config.ray.address):
        reporter.say("start        the request is in order, Ray is up")
        job = Job(config, str(own.folder), pools(config), reporter)
        return _select_and_publish(job, own, _score(job, chunks, pool_texts, checked))


def _score(job: Job, chunks: list[Chunk], pool_texts: list[str] | None, checked: Checked) -> Outcome:
    read = stages.read(job, chunks, checked)
    admitted = [part for record in read for part in record["admitted"]]
    counts = manifest.admitted_counts(read)
    manifest.require_rows(counts)
    columns = sorted({key for record in read for key in record["keys"]})
    selection.require_columns(job.config, columns)

    index = stages.retrieve_alternatives(job, admitted, pool_texts)
    placed = stages.place_rows(job, admitted, index["tokens"])
    dtype = scorer_dtype(job.config, job.pools)
    blocks, models = stages.fresh_blocks(placed), (checked.encoder, checked.model(dtype))
    if job.config.select.mode == "bounded":
        blocks = score_bounded(job, blocks, sum(part["rows"] for part in admitted), *models)
    else:
        blocks = stages.score_blocks(job, blocks, *models, Round())  # likelihoods and scores
    rejected = [part for record in [*read, *blocks] for part in record["rejected"]]
    facts = {
        "columns": columns,
        "instructions": index["instructions"],
        "pool": index["pool"],
        # What `tss select` starts from, whatever selections came between.
        "base": {
            "score": job.config.score.model_dump(),
            "select": job.config.select.model_dump(),
            "seed": job.config.seed,
        },
    }
    counts = manifest.add_scored(counts, blocks)
    manifest.require_rows(counts)
    return Outcome(
        stages.scored_of(blocks),
        rejected,
        counts,
        manifest.pairs_of(blocks),
        checked.scorer(dtype),
        facts,
        manifest.work_of(blocks),
    )


def select(config: Config, parent: Path, reporter: Reporter) -> Summary:
    """Score and select anew from the likelihoods of a published run, without a model, and publish that as a new run."""
    check_shadowing()
    output = check_output(config.output)
    known = publish.read_manifest(parent)
    check_quota(config, set(known["counts"]["sources"]))
    selection.require_columns(config, known["columns"])
    bounded = known["counts"].get("bounded", 0)
    selection.require_comparable(config, bounded)
    with publish.workspace(output) as own, session(config.ray.address):
        job = Job(config, str(own.folder), pools(config), reporter)
        blocks = stages.rescore(job, publish.parts_of(parent, known["files"]["scored"]))
        selection.require_scores(job, stages.scored_of(blocks), bounded)
        rejected = publish.copy_parts(parent, known["files"]["rejected"], own)
        facts = {"parent": known["run"], **{name: known[name] for name in ("columns", "instructions", "pool")}}
        facts["base"] = {"seed": known["config"]["seed"], **known["base"]}
        pairs = {"computed": 0, "reused": sum(known["pairs"].values())}
        scored = stages.scored_of(blocks)
        return _select_and_publish(
            job, own, Outcome(scored, rejected, known["counts"]["sources"], pairs, known["scorer"], facts)
        )


def _select_and_publish(job: Job, own: publish.Workspace, outcome: Outcome) -> Summary:
    chosen = selection.select(job, outcome.scored)
    counts = manifest.in_all(manifest.add_selected(outcome.counts, chosen.sources))
    overlapping = overlap(job, outcome.scored, chosen, counts["bounded"])
    digest = stages.digest_scores(job, outcome.scored)
    files = publish.gather(own, {"scored": outcome.scored, "selected": chosen.parts, "rejected": outcome.rejected})
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
        **outcome.facts,
    }
    return summarise(content, publish.publish(own, content, report.page(content)))
