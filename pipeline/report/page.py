"""The report of a run as one HTML page: no network, no script but its own, every text of a corpus escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from operators.rejections import REASONS
from pipeline.report import charts, words
from pipeline.report.bundle import LIBRARY
from pipeline.report.figures import Figures
from pipeline.report.gather import Gathered
from pipeline.report.rows import Material, Row, cut
from pipeline.report.shares import Shares, shares_of
from pipeline.runs import verdict_words
from pipeline.runs.accounts import order_in_words
from pipeline.runs.manifest import Manifest
from pipeline.runs.score_digest import QUANTILES

_FOLDER = Path(__file__).parent
MOST_BYTES = 5_000_000
NAME, CONFIGURATION = 120, 20_000  # characters of a name, and of the configuration, that are shown
_SOURCES = 100  # shown; the manifest has all
# What a reader would not see, and what turns the text around it: shown by its number.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]+"
)


def page(manifest: Manifest, gathered: Gathered | None, figures: Figures | None, problem: str | None = None) -> str:
    """The page; without what was gathered it says why, by `problem`, and what the manifest holds. Where it would have more than
    MOST_BYTES, texts of rows are cut further, and then rows are left out."""
    for length, rows in ((800, 1000), (300, 1000), (100, 1000), (100, 40), (60, 0)):
        text = _rendered(manifest, gathered, figures, problem, length, rows)
        if len(text.encode("utf-8", "replace")) <= MOST_BYTES:
            break
    return text


def _rendered(
    manifest: Manifest,
    gathered: Gathered | None,
    figures: Figures | None,
    problem: str | None,
    length: int,
    most_rows: int,
) -> str:
    counts = manifest.counts
    accounts = [*list(counts.sources.items())[:_SOURCES], *([("all", counts)] if len(counts.sources) > 1 else [])]
    material = gathered.material if gathered else Material([])
    rows = [_shown(row, length) for row in material.rows[:most_rows]]
    drawn = charts.charts(figures) if figures else {}
    library, script = _file(LIBRARY.name), _file("page.js")
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            m=manifest,
            config=manifest.config,
            counts=counts,
            order=order_in_words(manifest.config),
            verdict=verdict_of(manifest),
            asked=words.asked(manifest),
            notes=words.notes(manifest, gathered, figures, problem),
            moved=words.moved(figures),
            cut_in_words=words.cut_in_words(manifest, figures),
            problem=problem,
            figures=figures,
            quantile_names=[f"{share:.0%}" for share in QUANTILES],
            shares=shares_of(gathered) if gathered else Shares([], None),
            accounts=accounts,
            more_sources=max(0, len(counts.sources) - _SOURCES),
            rows=rows,
            kinds=list(dict.fromkeys(kind for row in rows for kind in row["kinds"])),
            reasons=REASONS,
            rejected=[
                (reason, number, material.rejected.get(reason, [])) for reason, number in _by_number(counts.rejected)
            ],
            yaml=cut(yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True), CONFIGURATION),
            charts=drawn,
            data=Markup(_json({"config": charts.CONFIG, "charts": drawn})),
            style=Markup(_file("page.css")),
            library=Markup(library if drawn else ""),
            script=Markup(script),
            script_sources=" ".join(_hash(text) for text in ([library, script] if drawn else [script])),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(_FOLDER),
    )
    environment.filters.update(
        shown=shown, number=_number, short=_short, share="{:.1%}".format, name=lambda text: shown(cut(text, NAME))
    )
    return environment


@cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A script in the words of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """A value as JSON that may stand in a script element: it has no character that HTML or JavaScript could take for an end."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shown(text: Any) -> Markup:
    """A text as HTML that shows it and does nothing else: what cannot be seen, or turns what follows, stands by its number."""
    pieces, end = [], 0
    text = str(text)
    for unseen in _UNSEEN.finditer(text):
        pieces.append(escape(text[end : unseen.start()]))
        first, count = ord(unseen.group()[0]), len(unseen.group())
        more = f"…{count}" if count > 1 else ""
        pieces.append(Markup(f'<span class="unseen">U+{first:04X}{more}</span>'))
        end = unseen.end()
    return Markup("").join([*pieces, escape(text[end:])])


def _number(value: int) -> str:
    return f"{value:,}"


def _short(value: float | None) -> str:
    """A figure in three digits; nothing where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    rounded = float(f"{value:.3g}")
    text = f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e9 else f"{rounded:.3g}"
    return text.replace("-", "−")


def _by_number(rejected: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(rejected.items(), key=lambda item: (-item[1], item[0]))


def verdict_of(manifest: Manifest) -> list[verdict_words.Sentence]:
    """What the run says of its scorer and its selection; early releases said nothing."""
    return [] if manifest.verdict is None else verdict_words.sentences(manifest.verdict)


def _shown(row: Row, length: int) -> dict[str, Any]:
    """A row as the template takes it: texts, and bars of the probability of a token under each instruction."""
    own = row.numbers["loglik_mean"]
    asked = [(row.texts["instruction"], "its own", None, own), *row.alternatives]
    highest = max((value for *_, value in asked if value is not None and math.isfinite(value)), default=0.0)
    bars = [
        {
            "text": cut(text, min(length, 200)),
            "origin": origin,
            "similarity": similarity,
            "loglik": value,
            "width": _width(value, highest),
            "own": place == 0,
        }
        for place, (text, origin, similarity, value) in enumerate(asked)
    ]
    texts = {name: cut(text, length) for name, text in row.texts.items()}
    return {**vars(row), "texts": texts, "bars": bars, "line": row.line, "status": _status(row)}


def _status(row: Row) -> str:
    return f"rank {row.selection_rank:,}" if row.selection_rank is not None else "not selected"


def _width(value: float | None, highest: float) -> float:
    """Per cent of the bar's room: the probability of a token of the output, beside the highest of the row."""
    if value is None or not math.isfinite(value):
        return 0.0
    return round(max(0.5, 100 * math.exp(min(0.0, value - highest))), 1)
