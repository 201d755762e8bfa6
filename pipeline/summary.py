"""The closing summary: what came in, what was lost and why, what it cost, what the scores look like, where the output lies."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.parts import Record

SAMPLE = 10_000  # score quantiles come from this many rows: those with the smallest ids
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Summary:
    """A published run in words."""

    run: Path
    text: str


def summarise(manifest: dict[str, Any], scored: list[Record], run: Path) -> Summary:
    """The summary of a published run from its manifest and the records of its scored parts."""
    counts, budget, pairs = manifest["counts"], manifest["budget"], manifest["pairs"]
    lost = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts["rejected"].items())) or "none"
    lines = [
        "",
        f"rows         {counts['read']:,} read, {sum(counts['rejected'].values()):,} rejected ({lost}), "
        f"{counts['duplicates']:,} duplicates, "
        f"{counts['scored']:,} scored"
        + (f" ({counts['unscored']:,} without alternatives)" if counts["unscored"] else ""),
        f"pool         {manifest['pool']:,} instructions as alternatives, {manifest['instructions']:,} distinct in the run",
        f"pairs        {pairs['computed']:,} computed, {pairs['reused']:,} reused{_speed(scored, manifest['timings'])}",
        *_quantiles(scored),
        _budget(budget, counts["selected"]),
        *_examples("best", "best", scored, heapq.nlargest),
        *_examples("worst", "worst", scored, heapq.nsmallest),
        f"output       {run}",
    ]
    return Summary(run, "\n".join(lines))


def _speed(scored: list[Record], timings: dict[str, float]) -> str:
    seconds = timings.get("score", 0.0)
    if not seconds or not any("work" in record for record in scored):
        return ""
    work = {name: sum(record["work"][name] for record in scored) for name in ("computed", "tokens", "forwarded_tokens")}
    padding = 1 - work["tokens"] / max(1, work["forwarded_tokens"])
    pairs, tokens = work["computed"] / seconds, work["tokens"] / seconds
    return f"; {pairs:,.0f} pairs and {tokens:,.0f} tokens a second, {padding:.0%} padding"


def _quantiles(scored: list[Record]) -> list[str]:
    sample = heapq.nsmallest(SAMPLE, (tuple(row) for record in scored for row in record["sample"]))
    if not sample:
        return ["tss_pp       no row has a score"]
    values = np.quantile([score for _, score in sample], QUANTILES)
    named = "  ".join(f"{quantile:.0%} {value:.2f}" for quantile, value in zip(QUANTILES, values, strict=True))
    known = sum(record["rows"] for record in scored)
    return [f"tss_pp       {named}" + (f"  (from {len(sample):,} rows)" if len(sample) < known else "")]


def _budget(budget: dict[str, Any], selected: int) -> str:
    text = f"budget       {budget['asked']:,} {budget['unit']} asked, {budget['used']:,} used by {selected:,} selected rows"
    if budget["asked"] >= budget["corpus"]:
        text += (
            f"; the budget covers the whole corpus ({budget['corpus']:,} {budget['unit']}), "
            "so every row that has a score and passes the filters is taken"
        )
    elif not selected:
        text += "; no row fits: the best one alone costs more, or the filters admit none"
    return text


def _examples(title: str, key: str, scored: list[Record], pick: Any) -> list[str]:
    rows = [tuple(row) for record in scored for row in record[key]]
    chosen = pick(5, rows, key=lambda row: row[0])
    return [
        f"{title if number == 0 else '':<12} {score:+7.2f}  {_cut(instruction, 60)} -> {_cut(output, 50)}"
        for number, (score, _, instruction, output) in enumerate(chosen)
    ]


def _cut(text: str, length: int) -> str:
    # Control characters and marks of direction could rewrite the terminal's line.
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"
