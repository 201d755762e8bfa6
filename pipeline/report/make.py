"""Makes the report of a run: of one that is about to be published, or of a published one again."""

from __future__ import annotations

from pipeline.engine.job import Job
from pipeline.report.figures import Run, figures
from pipeline.report.gather import Gathered, gather, gather_here, temperature_of
from pipeline.report.page import page
from pipeline.runs.manifest import Manifest
from pipeline.runs.score_digest import QUANTILES


def report_of(job: Job, manifest: Manifest, run: str, earlier: str | None) -> str:
    """The page of a run whose parts lie in `run` already, compared with an earlier run; raises RunFailed."""
    with job.reporter.stage("report", 2, "passes") as stage:
        gathered = gather(job, manifest, run, earlier)
        stage.advance()
        text = _page(manifest, gathered)
        stage.advance(note=f"{len(text):,} characters")
    return text


def report_again(manifest: Manifest, run: str) -> str:
    """The page of a published run, without Ray; raises what reading its parts does, and BadRequest."""
    return _page(manifest, gather_here(manifest, run))


def report_without_rows(manifest: Manifest, problem: str) -> str:
    """The page of a run whose rows could not be looked at, and why."""
    return page(manifest, None, None, problem)


def _page(manifest: Manifest, gathered: Gathered) -> str:
    return page(manifest, gathered, figures(gathered.tally, _run(manifest)))


def _run(manifest: Manifest) -> Run:
    select, score = manifest.config["select"], manifest.config.get("score") or {}
    budget = manifest.budget
    known = manifest.scores
    # Early releases computed other formulas, with other constants.
    ours = select["score"] == "tss_pp" and {"tau", "alpha"} <= score.keys()
    return Run(
        temperature=temperature_of(manifest),
        budget=1.0 if budget is None or not budget.corpus else min(1.0, budget.asked / budget.corpus),
        seed=manifest.seed,
        unscaled=ours,
        in_float32=manifest.scorer.dtype == "float32",
        alpha=float(score.get("alpha", 0.0)),
        tau=float(score.get("tau", 1.0)),
        quantiles=list(known.get("tss_pp", [])) if tuple(known.get("quantiles", ())) == QUANTILES else [],
        bounded=manifest.counts.bounded > 0,
        simple=isinstance(select["score"], str)
        and not select.get("max_per")
        and not select.get("quota")
        and select.get("unit", "example") == "example",
    )
