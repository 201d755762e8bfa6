"""The whole flow on one page: read, retrieve, place, recall, score, select, publish; and again on a corpus that has changed."""

from __future__ import annotations

import json

from pipeline import manifest, published, scoring, selection, stages, storage, store, upkeep
from pipeline.admit import SHOWN_REJECTED, columns_of
from pipeline.bounded import score_bounded
from pipeline.config import Config
from pipeline.encode import Round
from pipeline.errors import DamagedInput
from pipeline.finish import Outcome, finish, finish_rescored
from pipeline.job import Job
from pipeline.preflight import check_output, check_quota, check_shadowing
from pipeline.progress import Reporter
from pipeline.request import Request, requested, working_on, workspace_of
from pipeline.resources import pools
from pipeline.summary import Summary
from pipeline.workspace import Workspace, workspace


def run(config: Config, reporter: Reporter, *, fresh: bool = False) -> Summary:
    """The main job; goes on with the same request where it was interrupted, unless `fresh`. Raises BadRequest before any work,
    RunFailed after."""
    with requested("tss run", config, reporter, fresh) as request, workspace_of(request) as own:
        return _make(request, own)


def refresh(config: Config, reporter: Reporter, *, fresh: bool = False) -> Summary:
    """As `run`, on a corpus that may have changed since the output's current run; says what has. Where nothing that scores
    follow from has, they are taken from that run."""
    with requested("tss refresh", config, reporter, fresh) as request, workspace_of(request) as own:
        latest = published.latest_run(request.output)
        if latest is None:
            reporter.say("refresh      there is no earlier run to compare with")
            return _make(request, own)
        known = published.read_manifest(latest)
        if (
            known.get("content") == request.content
            and not own.fresh
            and not manifest.worth_another_try(known["counts"])
        ):
            reporter.say(f"refresh      nothing that scores follow from has changed since {known['run']}")
            selection.require_columns(config, known["columns"])
            manifest.require_few_rejected(known["counts"]["sources"], config.max_rejected_fraction, "refresh")
            try:
                return finish_rescored(request.job(own), own, latest, known, since=latest)
            except DamagedInput as damaged:
                reporter.say(f"refresh      {damaged.cause}; its rows are made again")
        return _make(request, own, since=latest)


def select(config: Config, parent: str, reporter: Reporter) -> Summary:
    """Score and select anew from the likelihoods of a published run, without a model, and publish that as a new run."""
    check_shadowing()
    output = check_output(config.output)
    known = published.read_manifest(parent)
    check_quota(config, set(known["counts"]["sources"]))
    selection.require_columns(config, known["columns"])
    selection.require_comparable(config, known["counts"].get("bounded", 0))
    with working_on(output, "tss select", config.ray.address) as lock:
        asked = {name: config.model_dump()[name] for name in ("score", "select", "seed")}
        identity = storage.digest_of(json.dumps([parent, asked]).encode())
        with workspace(output, lock, identity) as own:
            job = Job(config, own.folder, own.run_id, pools(config), reporter)
            return finish_rescored(job, own, parent, known)


def _make(request: Request, own: Workspace, since: str | None = None) -> Summary:
    job, config, checked = request.job(own), request.config, request.checked
    if own.whole:
        return finish(job, own, None)
    read = stages.read(job, request.chunks, checked)
    admitted = [part for record in read for part in record["admitted"]]
    counts = manifest.admitted_counts(read)
    first = [text for record in read for text in record["first_rejected"]][:SHOWN_REJECTED]
    manifest.require_rows(counts, first)
    manifest.require_few_rejected(counts, config.max_rejected_fraction, "read", first)
    columns = columns_of(read)
    selection.require_columns(config, columns)

    embeddings = store.embedder_folder(own.output, checked.embedder)
    index = stages.retrieve_alternatives(job, admitted, request.pool_texts, embeddings, checked.embedder_version)
    folder = store.scorer_folder(own.output, request.scorer["fingerprint"])
    upkeep.describe(folder, request.scorer)
    placed = scoring.recall_pairs(job, stages.place_rows(job, admitted, index["tokens"]), folder)
    blocks, scorer = scoring.fresh_blocks(placed), scoring.Scorer(checked.encoder, checked.model(request.dtype), folder)
    if config.select.mode == "bounded":
        blocks = score_bounded(job, blocks, sum(part["rows"] for part in admitted), scorer)
    else:
        blocks = scoring.score_blocks(job, blocks, scorer, Round())  # likelihoods and scores
    rejected = [part for record in [*read, *blocks] for part in record["rejected"]]
    counts = manifest.add_scored(counts, blocks)
    manifest.require_rows(counts)
    manifest.require_few_rejected(counts, config.max_rejected_fraction, "score")
    facts = {
        "inputs": request.inputs,
        "content": request.content,
        "columns": columns,
        "instructions": index["instructions"],
        "pool": index["pool"],
        "embedder": checked.embedder,
        "damaged": store.damaged(job.work),
        # What `tss select` starts from, whatever selections came between.
        "base": manifest.base_of(config),
    }
    work = manifest.work_of(blocks)
    pairs = manifest.pairs_of(work, own.resumed)
    named = {**request.scorer, "loaded": work.get("loaded", 0)}
    return finish(job, own, Outcome(scoring.scored_of(blocks), rejected, counts, pairs, named, facts, work, since))
