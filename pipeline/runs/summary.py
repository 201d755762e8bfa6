"""The closing summary: what came in, what was lost and why, what it cost, what the scores look like, where the output lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """A published run in words."""

    run: str
    text: str


def summarise(manifest: dict[str, Any], run: str) -> Summary:
    """The summary of a published run from its manifest."""
    counts, budget, pairs, scores = (manifest[name] for name in ("counts", "budget", "pairs", "scores"))
    lost = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts["rejected"].items())) or "none"
    lines = [
        "",
        f"rows         {counts['read']:,} read, {sum(counts['rejected'].values()):,} rejected ({lost}), "
        f"{counts['duplicates']:,} duplicates, "
        f"{counts['scored']:,} scored" + _without_score(counts["unscored"] - counts["bounded"], counts["bounded"]),
        f"pool         {manifest['pool']:,} instructions as alternatives, {manifest['instructions']:,} distinct in the run",
        _pairs(pairs) + _speed(manifest),
        *_quantiles(scores, counts["scored"] - counts["unscored"]),
        f"selection    {_settings(manifest['config'])}",
        _budget(budget, counts["selected"], manifest["eligible"]),
        *_overlap(manifest["overlap"], manifest["config"]["select"]),
        *_examples("best tss_pp", scores["best"]),
        *_examples("worst tss_pp", scores["worst"]),
        *_changes(manifest.get("changes"), manifest.get("since")),
        *_warnings(counts["sources"]),
        *(f"warning      {path} was damaged; what it held was computed again" for path in manifest.get("damaged", [])),
        f"output       {run}",
    ]
    return Summary(run, "\n".join(lines))


def _without_score(alone: int, bounded: int) -> str:
    parts = [f"{alone:,} without alternatives"] if alone else []
    parts += [f"{bounded:,} bounded, without tss_pp"] if bounded else []
    return f" ({', '.join(parts)})" if parts else ""


def _pairs(pairs: dict[str, int]) -> str:
    before, stored = pairs.get("resumed", 0), pairs.get("stored", 0)
    computed = f"{pairs['computed']:,} computed" + (f" ({before:,} before the run was interrupted)" if before else "")
    return f"pairs        {computed}, {pairs['reused']:,} reused" + (f" ({stored:,} from the store)" if stored else "")


def _changes(changes: dict[str, dict[str, int]] | None, since: str | None) -> list[str]:
    if not changes:
        return []
    rows, selected = changes["scored"], changes["selected"]
    return [
        f"changes      since {since}: {_moves(rows)} of all rows; {_moves(selected)} of the selection, "
        f"{selected['moved']:,} of these with another rank"
    ]


def _moves(counts: dict[str, int]) -> str:
    return f"{counts['entered']:,} entered, {counts['left']:,} left, {counts['stayed']:,} stayed"


def _speed(manifest: dict[str, Any]) -> str:
    seconds = sum(value for name, value in manifest["timings"].items() if name.startswith("score"))
    pairs, tokens = manifest["pairs"], manifest["tokens"]
    computed = pairs["computed"] - pairs.get("resumed", 0)
    if not seconds or not computed:
        return ""
    # Padding and sharing in one figure: tokens of all sequences over tokens that went through the model.
    reuse = tokens["in_pairs"] / max(1, tokens["forwarded"])
    return (
        f"; {computed / seconds:,.0f} pairs and {tokens['in_pairs'] / seconds:,.0f} tokens a second, "
        f"{reuse:.2f} tokens for each one computed"
    )


def _quantiles(scores: dict[str, Any], known: int) -> list[str]:
    if not scores["from"]:
        return ["tss_pp       no row has a score"]
    named = "  ".join(
        f"{quantile:.0%} {value:.2f}" for quantile, value in zip(scores["quantiles"], scores["tss_pp"], strict=True)
    )
    estimated = f"  (from {scores['from']:,} rows)" if scores["from"] < known else ""
    return [f"tss_pp       {named}{estimated}"]


def _overlap(found: dict[str, Any], select: dict[str, Any]) -> list[str]:
    """How much the selection by the run's own score, the first one, shares with each other."""
    if not found["rows"][0]:
        return []
    without = [name for name in ("max_per", "quota") if select[name]]
    marked = "Jaccard: 1 all rows, 0 none; a minus: lowest first"
    marked += f"; all without {' and '.join(without)}" if without else ""
    shared = [
        f"{name} {value:.2f}"
        for name, value in zip(found["scores"], found["jaccard"][0], strict=True)
        if name != found["scores"][0] and value is not None
    ]
    return [f"overlap      with a selection by {', '.join(shared)} ({marked})"] if shared else []


def _budget(budget: dict[str, Any], selected: int, eligible: int) -> str:
    text = f"budget       {budget['asked']:,} {budget['unit']} asked, {budget['used']:,} used by {selected:,} selected rows"
    if budget["asked"] >= budget["corpus"]:
        text += (
            f"; the budget covers the whole corpus ({budget['corpus']:,} {budget['unit']}), "
            "so every row that has a score and passes the filters is taken"
        )
    elif not selected:
        text += (
            "; no row fits: the best one alone costs more"
            if eligible
            else "; no row has a score and passes the filters"
        )
    return text


def _settings(config: dict[str, Any]) -> str:
    select, score = config["select"], config["score"]
    chosen = [
        f"by {select['score']}",
        f"hardest {score['hardest']}, tau {score['tau']:g}, quality {score['quality_weight']:g}",
    ]
    chosen += [f"{name} {select[name]}" for name in ("where", "max_per", "quota") if select[name]]
    return "; ".join(chosen)


def _warnings(sources: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"warning      source {source!r}: all {one['read']:,} rows rejected ({', '.join(sorted(one['rejected']))})"
        for source, one in sorted(sources.items())
        if one["read"] and one["read"] == sum(one["rejected"].values())
    ]


def _examples(title: str, rows: list[list]) -> list[str]:
    return [
        f"{title if number == 0 else '':<12} {score:+7.2f}  {_cut(instruction, 60)} -> {_cut(output, 50)}"
        for number, (score, _, instruction, output) in enumerate(rows)
    ]


def _cut(text: str, length: int) -> str:
    # Control characters and marks of direction could rewrite the terminal's line.
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"
