"""The whole flow on one page: read, retrieve, place, score, aggregate, select, publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import manifest, publish, stages
from pipeline.config import Config
from pipeline.errors import RunFailed
from pipeline.parts import Record
from pipeline.preflight import Checked, check_models, check_output, check_quota
from pipeline.progress import Reporter
from pipeline.resources import pools, scorer_dtype, session
from pipeline.retrieve import read_pool_file
from pipeline.sources import Chunk, plan
from pipeline.summary import Summary, summarise


def run(config: Config, reporter: Reporter) -> Summary:
    """The main job; raises BadRequest before any work, RunFailed after."""
    output = check_output(config.output)
    chunks = plan(config)
    check_quota(config, {chunk.source for chunk in chunks})
    pool_texts = read_pool_file(config.alternatives.pool) if config.alternatives.pool else None
    checked = check_models(config)
    with session(config.ray.address), _work(output) as (run_id, work):
        sizes = pools(config)
        job = stages.Run(config, str(work), sizes, reporter)
        return _run(job, output, run_id, chunks, checked, scorer_dtype(config, sizes), pool_texts)


def _run(
    job: stages.Run,
    output: Path,
    run_id: str,
    chunks: list[Chunk],
    checked: Checked,
    dtype: str,
    pool_texts: list[str] | None,
) -> Summary:
    read = stages.read(job, chunks, checked)
    admitted = [part for record in read for part in record["admitted"]]
    counts = manifest.admitted_counts(read)
    _require_rows(counts, admitted)
    columns = sorted({key for record in read for key in record["keys"]})
    stages.require_columns(job.config, columns)

    index = stages.retrieve_alternatives(job, admitted, pool_texts)
    placed = stages.place_rows(job, admitted, index["tokens"])
    scored = stages.score_blocks(job, placed, checked.encoder, checked.model(dtype))  # likelihoods, then TSS and TSS++
    counts = manifest.add_scored(counts, scored)
    selection = stages.select(job, scored)

    rejected = [part for record in read for part in record["rejected"]]
    facts = {"scorer": checked.scorer(dtype), "counts": counts, "pairs": manifest.pairs_of(scored)}
    return _publish(
        job,
        output,
        run_id,
        scored,
        selection,
        rejected,
        facts,
        {"columns": columns, "instructions": index["instructions"], "pool": index["pool"]},
    )


def select(config: Config, parent: Path, reporter: Reporter) -> Summary:
    """Score and select anew from the likelihoods of a published run, without a model, and publish the result as a new run."""
    output = check_output(config.output)
    known = publish.read_manifest(parent)
    counts = {source: {**one, "selected": 0} for source, one in known["counts"]["sources"].items()}
    check_quota(config, set(counts))
    with session(config.ray.address), _work(output) as (run_id, work):
        job = stages.Run(config, str(work), pools(config), reporter)
        records = [
            {"path": str(parent / file["path"]), "block": number}
            for number, file in enumerate(known["files"]["scored"])
        ]
        stages.require_columns(config, known["columns"])
        scored = stages.rescore(job, records)
        selection = stages.select(job, scored)
        rejected = publish.copy_parts(parent, known["files"]["rejected"], work)
        facts = {
            "scorer": known["scorer"],
            "counts": counts,
            "pairs": {"computed": 0, "reused": sum(known["pairs"].values())},
        }
        return _publish(
            job,
            output,
            run_id,
            scored,
            selection,
            rejected,
            facts,
            {
                "parent": known["run"],
                "columns": known["columns"],
                "instructions": known["instructions"],
                "pool": known["pool"],
            },
        )


def _require_rows(counts: dict[str, dict[str, Any]], admitted: list[Record]) -> None:
    if not admitted:
        total = manifest.in_all(counts)
        reasons = (
            ", ".join(f"{reason} {number}" for reason, number in sorted(total["rejected"].items()))
            or "the input has no rows"
        )
        raise RunFailed("read", f"{total['read']} rows read, none can be scored ({reasons}); nothing is published")


def _publish(
    job: stages.Run,
    output: Path,
    run_id: str,
    scored: list[Record],
    selection: stages.Selection,
    rejected: list[Record],
    facts: dict[str, Any],
    extra: dict[str, Any],
) -> Summary:
    counts = {source: {**one, "selected": selection.sources.get(source, 0)} for source, one in facts["counts"].items()}
    work = Path(job.work)
    files = publish.gather(work, {"scored": scored, "selected": selection.parts, "rejected": rejected})
    content = manifest.build(
        job.config,
        run_id=run_id,
        files=files,
        timings=job.reporter.timings,
        extra=extra,
        **{**facts, "counts": manifest.in_all(counts)},
        budget={"asked": selection.asked, "unit": selection.unit, "used": selection.used, "corpus": selection.total},
    )
    final = publish.publish(output, work, run_id, content)
    return summarise(content, scored, final)


@contextmanager
def _work(output: Path) -> Iterator[tuple[str, Path]]:
    run_id = publish.new_run_id()
    created = not output.exists()
    work = publish.make_work(output, run_id)
    try:
        yield run_id, work
    finally:
        publish.remove_work(work)
        if created and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
