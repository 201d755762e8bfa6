"""Sentences of a report: what was asked, what a reader has to know of its figures, where the selection ends."""

from __future__ import annotations

from pipeline.report import tally
from pipeline.report.charts import temperature_name
from pipeline.report.figures import Figures, Sureness
from pipeline.report.gather import Gathered, temperature_of
from pipeline.runs.manifest import Manifest


def asked(manifest: Manifest) -> list[tuple[str, str]]:
    """What was asked of a run, by name."""
    config, scorer = manifest.config, manifest.scorer
    select = config["select"]
    inputs = config.get("input") or []
    named = [str(each.get("path", each)) if isinstance(each, dict) else str(each) for each in inputs]
    lines = [
        ("inputs", ", ".join(named[:5]) + (f" and {len(named) - 5:,} more" if len(named) > 5 else "")),
        ("scorer", f"{scorer.model} in {scorer.dtype}, template {config.get('scorer', {}).get('template', '')}"),
        ("score", _score(select["score"])),
        (
            "temperature",
            temperature_name(temperature_of(manifest)) + ("" if temperature_of(manifest) else ": a ranking"),
        ),
        ("budget", ", ".join(f"{unit}: {value:g}" for unit, value in select["budget"].items())),
    ]
    offered = config.get("alternatives") or {}
    if "k" in offered:
        lines.append(("alternatives", f"{offered['k']} of each row, {offered.get('source', 'retrieved')}"))
    for name in ("where", "max_per", "quota", "unit", "mode"):
        if select.get(name) and select[name] not in ("example", "full"):
            lines.append((name, str(select[name])))
    return lines


def _score(score: str | dict[str, float]) -> str:
    return score if isinstance(score, str) else ", ".join(f"{weight:+g} {name}" for name, weight in score.items())


def notes(manifest: Manifest, gathered: Gathered | None, figures: Figures | None, problem: str | None) -> list[str]:
    """What a reader has to know of the figures, and what is missing."""
    counts = manifest.counts
    sentences = []
    if problem is not None:
        sentences.append(
            f"The figures of the rows could not be made: {problem} The run itself is whole. What the manifest holds is shown; "
            "`tss report RUN --open` tries again."
        )
    elif figures is None:
        sentences.append("No row was scored, so there are no figures of rows.")
    elif figures.sampled >= tally.SAMPLE:
        sentences.append(
            f"Distributions, the plane, and what is said of other budgets and of the cut are from {figures.sampled:,} of the "
            f"{counts.scored:,} scored rows, drawn at random by their ids. Counts and shares are of all rows."
        )
    without = counts.unscored - counts.bounded
    if without:
        sentences.append(f"{without:,} rows have no alternatives, and so no score: they are in no chart of scores.")
    if counts.bounded:
        sentences.append(
            f"The selection was bounded: {counts.bounded:,} rows were left before they had a tss_pp, since they could not be "
            "selected. Charts of tss and tss_pp show the others alone, and what other budgets, temperatures, seeds or half of "
            "the alternatives would select is not known."
        )
    if figures is not None:
        charted = {each.column for each in figures.histograms}
        missing = [name for name in ("tss", "tss_pp", "ppl", "ifd") if name not in charted]
        if missing:
            sentences.append(f"No row has a value of {', '.join(missing)}: it is not charted.")
        if figures.sureness is None or figures.sureness.halves is None:
            sentences.extend(_no_halves(manifest))
    if gathered is not None and gathered.capped:
        sentences.append(
            f"A column has more than {tally.MOST_GROUPS:,} values: counts of its smaller groups may be too low."
        )
    return sentences


def _no_halves(manifest: Manifest) -> list[str]:
    if manifest.counts.bounded or manifest.config["select"]["score"] != "tss_pp":
        return []
    return [
        "What half of the alternatives would have selected is not known: rows of this run do not have two of them each, "
        "or not their likelihoods, or caps, quotas or conversations decide."
    ]


def moved(figures: Figures | None) -> list[tuple[str, list[str]]]:
    """The table of budgets and temperatures: its heads, then a line for each temperature."""
    if figures is None or not figures.moves:
        return []
    budgets = list(dict.fromkeys(move.budget for move in figures.moves))
    lines = [("temperature", [f"{budget:.3g} of all" if budget >= 1 else f"{budget:.1%}" for budget in budgets])]
    for temperature in dict.fromkeys(move.temperature for move in figures.moves):
        cells = {move.budget: move for move in figures.moves if move.temperature == temperature}
        common = [cells[budget].common if budget in cells else None for budget in budgets]
        lines.append((temperature_name(temperature), ["–" if each is None else f"{each:.0%}" for each in common]))
    return lines


def cut_in_words(manifest: Manifest, figures: Figures | None) -> list[str]:
    """Where the selection ends, and how sure that is."""
    budget = manifest.budget
    sentences = []
    if budget is not None:
        left = budget.asked - budget.used
        sentences.append(
            f"Of {budget.asked:,} {budget.unit} {budget.used:,} are used"
            + (f", {left:,} are left: the next row would have cost more." if left and not _covers(manifest) else ".")
        )
        if _covers(manifest):
            sentences.append("The budget covers every row that has a score and passes the filter: nothing was cut.")
    sure = None if figures is None else figures.sureness
    if sure is None:
        if manifest.counts.selected:
            sentences.append(
                "There is no one end of one ranking here: a quota, a cap, whole conversations, a weighted score or an earlier "
                "release decide, so that how sure it is cannot be said in one figure."
            )
        return sentences
    return [*sentences, *_end(manifest, sure), *_how_sure(sure)]


def _covers(manifest: Manifest) -> bool:
    return manifest.budget is not None and manifest.counts.selected >= manifest.eligible > 0


def _end(manifest: Manifest, sure: Sureness) -> list[str]:
    score = _score(manifest.config["select"]["score"])
    temperature = temperature_of(manifest)
    if temperature:
        return [
            f"Rows were drawn: by {score} / {temperature_name(temperature)} plus a random number of each row. The last row "
            f"that was taken has {score} {sure.last_score:.4g} and reached {sure.last_key:.4g}"
            + (
                f"; the first one left out has {sure.next_score:.4g} and reached {sure.next_key:.4g}."
                if sure.next_key is not None
                else "."
            )
        ]
    after = "" if sure.next_score is None else f"; the best row left out has {sure.next_score:.6g}"
    return [f"The last row that was taken has {score} {sure.last_score:.6g}{after}."]


def _how_sure(sure: Sureness) -> list[str]:
    sentences = []
    if sure.rounding is not None:
        sentences.append(
            f"{sure.within_rounding:,} of the rows here lie so near to the end (within {sure.rounding:.2g}) that likelihoods "
            "in other batches could put them on its other side."
        )
    if sure.halves is not None:
        sentences.append(
            f"Two halves of the alternatives, each by itself, select {sure.halves:.0%} of their rows alike at this budget: the "
            "rest depends on which alternatives were asked."
        )
    return sentences
