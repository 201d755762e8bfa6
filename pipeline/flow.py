"""The flow on one page: read, retrieve, generate, place, recall, score, select, publish; and again on a changed corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline import preflight, what_if
from pipeline.config import Config
from pipeline.engine.job import AS_USUAL, Job, Publishing
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import pools
from pipeline.errors import DamagedInput
from pipeline.finish import Outcome, finish, finish_rescored
from pipeline.first_look import score_rows
from pipeline.plan import announce
from pipeline.reading.admit import admit
from pipeline.reading.collect import columns_of
from pipeline.reading.excluded import index_excluded
from pipeline.reading.near_duplicates import drop_near_duplicates
from pipeline.reading.snapshot import require_same_content
from pipeline.request import Request, requested, workspace_of
from pipeline.retrieval.embeddings import embed_instructions
from pipeline.retrieval.generate import generate_instructions
from pipeline.retrieval.instructions import collect_instructions
from pipeline.retrieval.neighbours import find_neighbours
from pipeline.retrieval.offers import offer
from pipeline.retrieval.place import place
from pipeline.retrieval.shards import Shards, generated_index
from pipeline.runs import accounts, history, open_run, rejected_rows
from pipeline.runs.manifest import Manifest
from pipeline.runs.output import check_output, working_on
from pipeline.runs.short_rows import account_of
from pipeline.runs.summary import Summary
from pipeline.runs.workspace import Workspace, open_workspace
from pipeline.scoring.recall import recall_pairs
from pipeline.scoring.rounds import Scorer, scored_parts
from pipeline.storage import computed, files


def run(config: Config, reporter: Reporter, *, fresh: bool = False, publishing: Publishing = AS_USUAL) -> Summary:
    """The main job; goes on with the same request where it was interrupted, unless `fresh`. Raises BadRequest before any work,
    RunFailed after."""
    asked = requested("tss run", config, reporter, fresh, publishing)
    with asked as request, workspace_of(request) as workspace:
        announce(request)
        return _make(request, workspace)


def refresh(config: Config, reporter: Reporter, *, fresh: bool = False, publishing: Publishing = AS_USUAL) -> Summary:
    """As `run`, on a corpus that may have changed since the last run of the same settings; says what has. Where nothing that
    scores follow from has changed since the current run, they are taken from that one."""
    asked = requested("tss refresh", config, reporter, fresh, publishing)
    with asked as request, workspace_of(request) as workspace:
        latest = open_run.latest_run(request.output)
        if latest is None:
            reporter.say("refresh      there is no earlier run to compare with")
            return _make(request, workspace)
        manifest = open_run.read_manifest(latest)
        since = history.last_of_settings(request.output, config, latest)
        if (
            manifest.content == request.content
            and not workspace.fresh
            and not accounts.worth_another_try(manifest.counts)
            # A stricter limit holds for each file too, and what each file had rejected is known once it is read.
            and config.max_rejected_fraction >= manifest.config["max_rejected_fraction"]
        ):
            reporter.say(f"refresh      nothing that scores follow from has changed since {manifest.run}")
            preflight.require_columns(config, manifest.columns)
            try:
                return finish_rescored(request.job(workspace), workspace, latest, manifest, since=since)
            except DamagedInput as damaged:
                reporter.say(f"refresh      {damaged.cause}; its rows are made again")
        return _make(request, workspace, since=since)


def select(config: Config, parent: str, reporter: Reporter, *, publishing: Publishing = AS_USUAL) -> Summary:
    """Score and select anew from the likelihoods of a published run, without a model, and publish that as a new run."""
    with _selecting("tss select", config, parent, reporter, publishing) as (job, workspace, manifest):
        return finish_rescored(job, workspace, parent, manifest)


def try_selection(config: Config, parent: str, reporter: Reporter) -> Summary:
    """What `select` would select, in words; nothing is published."""
    with _selecting("tss select --dry-run", config, parent, reporter, AS_USUAL) as (job, _, manifest):
        return what_if.selection_in_words(job, parent, manifest)


@contextmanager
def _selecting(
    command: str, config: Config, parent: str, reporter: Reporter, publishing: Publishing
) -> Iterator[tuple[Job, Workspace, Manifest]]:
    """What a selection from a published run works with; raises BadRequest where it cannot be made of it."""
    output = check_output(config.output)
    manifest = open_run.read_manifest(parent)
    preflight.check_quota(config, set(manifest.counts.sources))
    preflight.require_columns(config, manifest.columns)
    preflight.require_clusters(config, manifest.config)
    preflight.require_conversations(config)
    preflight.require_comparable(config, manifest.counts.bounded)
    with working_on(output, command, config.ray.address) as lock:
        asked = {name: config.model_dump()[name] for name in ("score", "select", "seed")}
        kind = [] if command == "tss select" else [command]
        identity = files.digest_of(json.dumps([parent, asked, *kind]).encode())
        with open_workspace(output, lock, identity) as workspace:
            job = Job(config, workspace.folder, workspace.run_id, pools(config), reporter, publishing=publishing)
            yield job, workspace, manifest


def _make(request: Request, workspace: Workspace, since: str | None = None) -> Summary:
    job, config, checked = request.job(workspace), request.config, request.checked
    if workspace.whole:
        return finish(job, workspace, None)
    chunks = admit(job, request.chunks, checked.encoder, index_excluded(job, request.excluded))
    require_same_content(job.reporter, request.chunks, request.inputs)
    admitted = [part for chunk in chunks for part in chunk.admitted]
    rejected = [part for chunk in chunks for part in chunk.rejected]
    counts = accounts.admitted_counts(chunks)
    with rejected_rows.kept_on_failure(workspace, rejected):
        accounts.require_admitted(counts, chunks, config.max_rejected_fraction)
    columns = columns_of(chunks)
    preflight.require_columns(config, columns)
    preflight.require_numbers(config, columns, {name for chunk in chunks for name in chunk.numbers})

    sieved = None
    if config.dedup.near is not None:
        sieved = drop_near_duplicates(job, admitted, config.dedup.near)
        admitted, counts = sieved.admitted, accounts.add_near_duplicates(counts, sieved.near)
    table = collect_instructions(job, admitted, request.pool_texts, checked.encoder["max_length"])
    embeddings = computed.embedder_folder(workspace.output, checked.embedder)
    embed_instructions(job, table.shards, embeddings, checked.embedder_version)
    retrieval = find_neighbours(job, table)
    written = None
    if request.generating is not None:
        written = generate_instructions(job, admitted, request.generator_folder(), request.generating.actor)
        shards = Shards(generated_index(job.index), [written.distinct])
        embed_instructions(job, shards, embeddings, checked.embedder_version, generated=True)
    folder = computed.scorer_folder(workspace.output, request.scorer.fingerprint)
    trial = checked.server["trial_logprobs"] if checked.server else None
    computed.describe(folder, request.scorer.model, request.scorer.dtype, request.scorer.template_hash, trial)
    placed = place(job, admitted, table)
    blocks = recall_pairs(job, placed, offer(job, placed, table.shards), folder)
    scorer = Scorer(checked.encoder, checked.model(request.dtype), folder)
    blocks = score_rows(job, blocks, sum(part.rows for part in admitted), scorer)  # likelihoods and scores
    counts = accounts.add_scored(counts, blocks)
    rejected += [part for block in blocks for part in block.rejected]
    with rejected_rows.kept_on_failure(workspace, rejected):
        accounts.require_rows(counts)
        accounts.require_few_rejected(counts, config.max_rejected_fraction, "score")
    scored = scored_parts(blocks)
    alternatives = account_of(job, written, scored) if written else None
    work, near = accounts.work_of(blocks), None if sieved is None else sieved.account
    manifest = request.manifest(workspace, columns, table, retrieval, counts, work, alternatives, near)
    manifest = replace(manifest, special=accounts.first_special(chunks) or None)
    listed = None if sieved is None else sieved.near.parts
    return finish(job, workspace, Outcome(scored, rejected, manifest, listed), since)
