"""A comparison of two runs as lines for a terminal, and as a section of a page, in which every text is escaped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pipeline.errors import printable
from pipeline.inspection.compare import Comparison, MovedRow, Share, Side, compare
from pipeline.runs.summary import Summary

_SECTION = Path(__file__).parent / "compare.html.jinja"
_INSTRUCTION_CHARS, _OUTPUT_CHARS, _VALUE_CHARS = 50, 40, 60
_SELECTED = {(False, False): "neither", (True, False): "left", (False, True): "entered", (True, True): "both"}


def verb(arguments: argparse.Namespace) -> Summary:
    """What `tss compare` prints; raises as `compare`."""
    made = compare(arguments.run, arguments.other, by=arguments.by, shown=arguments.rows)
    return Summary(made.second.path, json.dumps(made.as_plain()) if arguments.json else as_text(made))


def as_text(made: Comparison) -> str:
    """The lines for a terminal."""
    chosen = made.selections
    jaccard = "-" if chosen.jaccard is None else f"{chosen.jaccard:.3f}"
    unknown = f"; {chosen.unknown:,} of them are rows that the other run has not scored" if chosen.unknown else ""
    lines = [
        f"first        {_side(made.first)}",
        f"second       {_side(made.second)}",
        f"rows         {made.common:,} in both, {made.first.scored - made.common:,} in the first alone, "
        f"{made.second.scored - made.common:,} in the second alone",
        "ranks        Spearman's correlation of each score over the rows that have it in both",
        *(
            f"{'':<12} {each.score:<18}{'-' if each.spearman is None else f'{each.spearman:.3f}':>7}  {each.rows:,} rows"
            for each in made.agreements
        ),
        f"selections   {jaccard} in common (Jaccard): {_share(chosen.kept)} kept; {_share(chosen.entered)} entered; "
        f"{_share(chosen.left)} left{unknown}",
        f"moved        by {made.by} among {made.ranked:,} rows: place in the first and in the second, selected by",
        *_moved("risen", made.risen),
        *_moved("fallen", made.fallen),
        f"settings     {len(made.settings):,} differ" + (": first | second" if made.settings else ""),
        *(f"{'':<12} {_line(each.key)}: {_value(each.first)} | {_value(each.second)}" for each in made.settings),
    ]
    return "\n".join(lines)


def section(made: Comparison) -> str:
    """The comparison as HTML for a part of a page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(value=_value, number="{:,}".format)
    template = environment.from_string(_SECTION.read_text(encoding="utf-8"))
    return template.render(made=made, moves=[*made.risen, *made.fallen], selected=_SELECTED)


def _side(side: Side) -> str:
    return _line(
        f"{side.path}: {side.model} ({side.dtype}), template {side.template}; {side.scored:,} rows scored, {side.selected:,} "
        f"selected with {side.selected_tokens:,} tokens"
    )


def _share(share: Share) -> str:
    tokens = f"{share.first_tokens:,}"
    if share.first_tokens != share.second_tokens:
        tokens = " | ".join(f"{count:,}" for count in (share.first_tokens, share.second_tokens) if count)
    return f"{share.rows:,} rows ({tokens} tokens)"


def _moved(title: str, rows: list[MovedRow]) -> list[str]:
    return [
        f"{title if number == 0 else '':<12} {row.places[0]:>9,} -> {row.places[1]:<9,} {_SELECTED[row.selected]:<8}"
        f"{row.scores[0]:>+10.3g} {row.scores[1]:>+10.3g}  {row.id[:12]}  {_cut(row.instruction, _INSTRUCTION_CHARS)} -> "
        f"{_cut(row.output, _OUTPUT_CHARS)}"
        for number, row in enumerate(rows)
    ]


def _value(value: Any) -> str:
    return "-" if value is None else _cut(value if isinstance(value, str) else json.dumps(value), _VALUE_CHARS)


def _cut(text: str, length: int) -> str:
    shown = _line(text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _line(text: str) -> str:
    return printable(text.replace("\n", " "))
