"""`tss select --dry-run`: what a selection from a published run would take, in words, and where its rows went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from operators.selection import filter
from pipeline.engine.job import Job
from pipeline.engine.light_pass import light_pass
from pipeline.runs import accounts, open_run
from pipeline.runs.manifest import Budget, Manifest
from pipeline.runs.summary import Summary, selection_lines
from pipeline.scoring.rescore import rescore
from pipeline.selection import choose
from pipeline.selection.conversations import require_conversations
from pipeline.selection.removed import removed_by
from pipeline.selection.weigh import weigh
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, record_table, records_of


@dataclass(frozen=True)
class Taken:
    """Of selected parts: tokens by source; the lowest and the highest score; rank and score of the last row."""

    tokens: dict[str, int]
    low: float
    high: float
    rank: int
    last: float


def selection_in_words(job: Job, parent: str, known: Manifest) -> Summary:
    """Select from a published run, `known` by its manifest, as `tss select` does; publish nothing. Raises BadRequest where the
    selection cannot be made of it, DamagedInput where a part is not what was published."""
    scored = rescore(job, open_run.parts_of(parent, known.files["scored"]))
    choose.require_scores(job, scored, known.counts.bounded)
    if job.config.select.unit == "conversation":
        require_conversations(scored)
    scored, moments = weigh(job, scored)
    chosen = choose.select(job, scored, moments)
    counts = accounts.in_all(accounts.add_selected(known.counts.sources, chosen.sources))
    asked = replace(
        known,
        config=job.config.model_dump(),
        counts=counts,
        budget=Budget(chosen.asked, chosen.unit, chosen.used, chosen.total),
        eligible=chosen.eligible,
    )
    where = job.config.select.where
    score: dict[str, Any] = {"score": job.config.select.score, "moments": moments}
    taken = list(light_pass("select", Taken, chosen.parts, taken_of_parts, **score)) if chosen.parts else []
    lines = [
        "",
        f"from         {known.run}: {counts.scored:,} scored rows, {chosen.eligible:,} of them have a score and pass "
        f"{'filters and caps' if where or job.config.select.max_per else 'as they are'}",
        *selection_lines(asked),
        *_cut(asked, taken),
        *_sources(asked, taken),
        *(_removed(scored, where) if where else []),
        "dry run      nothing was published; the same command without --dry-run "
        + (
            "publishes this" if counts.selected else "ends with status 2, as nothing is selected (or add --allow-empty)"
        ),
    ]
    return Summary(parent, "\n".join(lines))


def _cut(manifest: Manifest, taken: list[Taken]) -> list[str]:
    if not taken:
        return []
    last, name = max(taken, key=lambda record: record.rank), manifest.config["select"]["score"]
    low, high = min(record.low for record in taken), max(record.high for record in taken)
    return [
        f"cut          the last row that is taken, of rank {last.rank:,}, has {name} {last.last:.4g}; all that are taken have "
        f"{low:.4g} to {high:.4g} ({accounts.order_in_words(manifest.config)})"
    ]


def _sources(manifest: Manifest, taken: list[Taken]) -> list[str]:
    tokens = sum((Counter(record.tokens) for record in taken), Counter[str]())
    return [
        f"{'sources' if place == 0 else '':<12} {source}: {rows.selected:,} of {rows.scored:,} scored rows, "
        f"{tokens[source]:,} tokens"
        for place, (source, rows) in enumerate(sorted(manifest.counts.sources.items()))
    ]


def _removed(scored: list[BlockPart], where: str) -> list[str]:
    removed = removed_by(scored, where).items()
    return [
        f"{'where' if place == 0 else '':<12} {condition}: {rows:,} scored rows do not pass, {alone:,} of them for this alone"
        for place, (condition, (rows, alone)) in enumerate(removed)
    ]


def taken_of_parts(
    batch: pa.Table, *, score: str | dict[str, float], moments: dict[str, tuple[float, float]]
) -> pa.Table:
    """A record of Taken."""
    names = {score} if isinstance(score, str) else set(score)
    columns = filter.needed_columns(names | {"source", "n_prompt_tokens", "n_target_tokens"})
    tables = [read_table(record.part.path, [*columns, "selection_rank"]) for record in records_of(BlockPart, batch)]
    table = pa.concat_tables(tables)
    if not len(table):
        return record_table([])
    values, ranks = filter.score_of(table, score, moments), table["selection_rank"].to_numpy()
    costs = table["n_prompt_tokens"].to_numpy().astype(np.int64) + table["n_target_tokens"].to_numpy()
    tokens: Counter[str] = Counter()
    for source, cost in zip(table["source"].to_pylist(), costs.tolist(), strict=True):
        tokens[source] += cost
    last = int(ranks.argmax())
    facts = (float(values.min()), float(values.max()), int(ranks[last]), float(values[last]))
    return record_table([Taken(dict(tokens), *facts)])
