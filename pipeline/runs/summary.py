"""The closing summary: what came in, what was lost and why, what it cost, what the scores look like, where the output lies."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config_select import Select
from pipeline.errors import printable
from pipeline.runs import verdict_words
from pipeline.runs.accounts import by_reason
from pipeline.runs.manifest import AllCounts, Manifest, Pairs, RowChanges


@dataclass(frozen=True)
class Summary:
    """A published run in words, and the exit status of the command that ends with it."""

    run: str
    text: str
    status: int = 0

    def _repr_html_(self) -> str:
        """What a notebook shows: the same lines, escaped."""
        return f"<pre>{html.escape(printable(self.text))}</pre>"


_AGGREGATES = {"mean": "mean", "min": "lowest score"}


def summarise(manifest: Manifest, run: str) -> Summary:
    """The summary of a published run from its manifest."""
    counts, scores = manifest.counts, manifest.scores
    lines = [
        "",
        f"rows         {counts.read:,} read, {counts.lost:,} rejected ({by_reason(counts) or 'none'}), "
        f"{counts.duplicates:,} duplicates, {_near(manifest)}"
        f"{counts.scored:,} scored" + _without_score(counts.unscored - counts.bounded, counts.bounded),
        f"pool         {manifest.pool:,} instructions as alternatives, {manifest.instructions:,} distinct in the run"
        + _retrieval(manifest),
        *_generated(manifest),
        _pairs(manifest.pairs) + _speed(manifest),
        *_quantiles(scores, counts.scored - counts.unscored),
        *selection_lines(manifest),
        *_overlap(manifest),
        *(verdict_words.lines(manifest.verdict) if manifest.verdict else []),
        *_examples("best tss_pp", scores["best"]),
        *_examples("worst tss_pp", scores["worst"]),
        *_changes(manifest),
        *_special(manifest),
        *_warnings(counts),
        *_crowded(manifest),
        *(f"warning      {path} was damaged; what it held was computed again" for path in manifest.damaged),
        *_report(manifest),
        *([f"label        {_cut(manifest.label, 200)}"] if manifest.label else []),
        f"output       {run}",
    ]
    return Summary(run, "\n".join(lines))


def selection_lines(manifest: Manifest) -> list[str]:
    """The settings of the selection, and its budget."""
    return [f"selection    {_settings(manifest.config)}", *_budget(manifest)]


def _without_score(alone: int, bounded: int) -> str:
    parts = [f"{alone:,} without alternatives"] if alone else []
    parts += [f"{bounded:,} bounded, without tss_pp"] if bounded else []
    return f" ({', '.join(parts)})" if parts else ""


def _retrieval(manifest: Manifest) -> str:
    """How far an index was looked into, where there was one."""
    found = manifest.retrieval
    if found is None or found.recall is None:
        return ""
    recall = f"{found.recall:.3f} [{found.low:.3f} {found.high:.3f}]"
    return f"; neighbours from {found.probes:,} of {found.lists:,} lists, recall {recall}"


def _near(manifest: Manifest) -> str:
    return "" if manifest.near_duplicates is None else f"{manifest.counts.near_duplicates:,} near duplicates, "


def _crowded(manifest: Manifest) -> list[str]:
    """Whether near duplicates may have stayed since too many rows were alike to compare all pairs."""
    near = manifest.near_duplicates
    if near is None or not near.crowded:
        return []
    return [
        f"warning      up to {near.crowded:,} rows are so much alike that not all pairs of them were compared: some near "
        "duplicates may have stayed"
    ]


def _generated(manifest: Manifest) -> list[str]:
    """What was written for inputs, where alternatives were."""
    written = manifest.alternatives
    if written is None or manifest.generator is None:
        return []
    before = f" ({written.resumed:,} before the run was interrupted)" if written.resumed else ""
    refused = f", {written.refused:,} of them refused by the generator" if written.refused else ""
    return [
        f"generated    {written.distinct:,} instructions for {written.requested:,} inputs by {manifest.generator.model}: "
        f"{written.computed:,} inputs asked for{before}, {written.stored:,} from the store{refused}; "
        f"{written.short:,} rows have too few alternatives, {written.without_input:,} rows have no input"
    ]


def _pairs(pairs: Pairs) -> str:
    before = f" ({pairs.resumed:,} before the run was interrupted)" if pairs.resumed else ""
    stored = f" ({pairs.stored:,} from the store)" if pairs.stored else ""
    return f"pairs        {pairs.computed:,} computed{before}, {pairs.reused:,} reused{stored}"


def _changes(manifest: Manifest) -> list[str]:
    if not manifest.changes:
        return []
    rows, selected = manifest.changes["scored"], manifest.changes["selected"]
    return [
        f"changes      since {manifest.since}: {_moves(rows)} of all rows; {_moves(selected)} of the selection, "
        f"{selected.moved:,} of these with another rank"
    ]


def _moves(rows: RowChanges) -> str:
    return f"{rows.entered:,} entered, {rows.left:,} left, {rows.stayed:,} stayed"


def _speed(manifest: Manifest) -> str:
    seconds = sum(value for name, value in manifest.timings.items() if name.startswith("score"))
    tokens = manifest.tokens
    computed = manifest.pairs.computed - manifest.pairs.resumed
    if not seconds or not computed:
        return ""
    # Padding and sharing in one figure: tokens of all sequences over tokens that went through the model.
    reuse = tokens.in_pairs / max(1, tokens.forwarded)
    return (
        f"; {computed / seconds:,.0f} pairs and {tokens.in_pairs / seconds:,.0f} tokens a second, "
        f"{reuse:.2f} tokens for each one computed"
    )


def _quantiles(scores: dict[str, Any], with_score: int) -> list[str]:
    if not scores["from"]:
        return ["tss_pp       no row has a score"]
    named = "  ".join(
        f"{quantile:.0%} {value:.3g}" for quantile, value in zip(scores["quantiles"], scores["tss_pp"], strict=True)
    )
    estimated = f"  (from {scores['from']:,} rows)" if scores["from"] < with_score else ""
    return [f"tss_pp       {named}{estimated}"]


def _overlap(manifest: Manifest) -> list[str]:
    """How much the selection by the run's own score, the first one, shares with each other."""
    overlap = manifest.overlap
    if overlap is None or not overlap.rows[0]:
        return []
    without = [name for name in ("max_per", "quota") if manifest.config["select"][name]]
    marked = "Jaccard: 1 all rows, 0 none; a minus: lowest first"
    marked += f"; all without {' and '.join(without)}" if without else ""
    shared = [
        f"{name} {value:.2f}"
        for name, value in zip(overlap.scores, overlap.jaccard[0], strict=True)
        if name != overlap.scores[0] and value is not None
    ]
    return [f"overlap      with a selection by {', '.join(shared)} ({marked})"] if shared else []


def _budget(manifest: Manifest) -> list[str]:
    budget, selected = manifest.budget, manifest.counts.selected
    if budget is None:
        return []
    unit = "conversation" if _of_conversations(manifest.config) else "row"
    text = f"budget       {budget.asked:,} {budget.unit} asked, {budget.used:,} used by {selected:,} selected rows"
    if budget.asked >= budget.corpus:
        text += (
            f"; the budget covers the whole corpus ({budget.corpus:,} {budget.unit}), "
            f"so every {unit} that has a score and passes the filters is taken"
        )
    elif not selected:
        text += (
            f"; no {unit} fits: the best one alone costs more"
            if manifest.eligible
            else f"; no {unit} has a score and passes the filters"
        )
    return [text]


def _of_conversations(config: dict[str, Any]) -> bool:
    return bool(config["select"].get("unit") == "conversation")  # early releases had none


def _settings(config: dict[str, Any]) -> str:
    select, score = config["select"], config["score"]
    chosen = [f"by {select['score']}", ", ".join(f"{name} {value}" for name, value in score.items())]
    if _of_conversations(config):
        chosen.insert(1, f"whole conversations by the {_AGGREGATES[select['unit_score']]} of their turns")
    if "temperature" in select:  # early releases had none
        chosen.append(f"temperature {Select.model_construct(**select).drawn_at:g}")
    chosen += [f"{name} {value}" for name in ("where", "max_per", "quota") if (value := select.get(name))]
    return "; ".join(chosen)


def _special(manifest: Manifest) -> list[str]:
    counts = manifest.counts
    if not counts.special_text:
        return []
    alone = ""
    if counts.special_outputs:
        alone = f". The output of {counts.special_outputs:,} is nothing else: {', '.join(manifest.special or [])}"
        alone += ", ..." if counts.special_outputs > len(manifest.special or []) else ""
    return [
        f"special      {counts.special_text:,} rows hold text that looks like a special token of the scorer; it was encoded as "
        f"the characters it is{alone}"
    ]


def _warnings(counts: AllCounts) -> list[str]:
    return [
        f"warning      source {source!r}: all {rows.read:,} rows rejected ({', '.join(sorted(rows.rejected))}); the "
        "folder rejected/ of the run says what each row had"
        for source, rows in sorted(counts.sources.items())
        if rows.read and rows.read == rows.lost
    ]


def _report(manifest: Manifest) -> list[str]:
    if manifest.report is None or manifest.report.problem is None:
        return []
    return [
        f"warning      the report lacks the figures of rows: {manifest.report.problem}; the run is whole, and "
        "`tss report RUN --open` tries again"
    ]


def _examples(title: str, rows: Iterable[Sequence[Any]]) -> list[str]:
    return [
        f"{title if number == 0 else '':<12} {score:+9.3g}  {_cut(instruction, 60)} -> {_cut(output, 50)}"
        for number, (score, _, instruction, output) in enumerate(rows)
    ]


def _cut(text: str, length: int) -> str:
    # Control characters and marks of direction could rewrite the terminal's line.
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"
