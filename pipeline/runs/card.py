"""The dataset card of a run: a README.md that people read, and by whose front matter `datasets` and the hub find its rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from pipeline.runs.accounts import by_reason, order_in_words
from pipeline.runs.manifest import Manifest

_PAGE = Path(__file__).parent / "card.md.jinja"
_NAME_CHARS = 200
# What Markdown, HTML and mathematics could take for a mark within a line, or for an address.
_MARKS = re.compile(r"([\\`*_{}\[\]()<>|~&:$@^!]|(?<=www)\.)", re.IGNORECASE)
_SOURCES = 100  # shown; the manifest has all


def card(manifest: Manifest) -> str:
    """The card as Markdown. Names of sources and other texts of a stranger are escaped, and stay within their line."""
    counts, config = manifest.counts, manifest.config
    accounts = [*list(counts.sources.items())[:_SOURCES], *([("all", counts)] if len(counts.sources) != 1 else [])]
    # `datasets` fails on a file without rows, which an empty selection is.
    kinds = [
        kind
        for kind, rows in (("selected", counts.selected), ("scored", counts.scored), ("rejected", counts.lost))
        if rows
    ]
    front: dict[str, Any] = {
        "configs": [{"config_name": kind, "data_files": f"{kind}/*.parquet"} for kind in kinds],
        "tags": ["task-specificity", "instruction-tuning"],
        "size_categories": [_size(counts.scored)],
    }
    for first in front["configs"][:1]:
        first["default"] = True
    settings = {key: config[key] for key in ("select", "score") if key in config}
    # What it makes is Markdown; the filter `text` escapes.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters.update(text=_escaped, number="{:,}".format)
    return environment.from_string(_PAGE.read_text(encoding="utf-8")).render(
        manifest=manifest,
        front=yaml.safe_dump(front, sort_keys=False),
        accounts=[(name, rows, by_reason(rows)) for name, rows in accounts],
        more=max(0, len(counts.sources) - _SOURCES),
        order=order_in_words(config),
        score=_as_text(config["select"]["score"]),
        quantiles=_quantiles(manifest),
        block=_fenced(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)),
        columns=", ".join(_escaped(name) for name in manifest.columns),
    )


def _escaped(text: str) -> str:
    """Text as Markdown that shows it and does nothing else; long text is cut."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    shown = shown if len(shown) <= _NAME_CHARS else shown[: _NAME_CHARS - 1] + "…"
    return _MARKS.sub(r"\\\1", shown)


def _fenced(text: str) -> str:
    """Text as a block of code that it cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}{fence}"


def _as_text(score: Any) -> str:
    return score if isinstance(score, str) else ", ".join(f"{weight:g} {name}" for name, weight in score.items())


def _quantiles(manifest: Manifest) -> list[tuple[str, str]]:
    """(quantile, tss_pp) of scored rows; none where no row has a score."""
    scores = manifest.scores
    if not scores.get("tss_pp"):
        return []
    return [
        (f"{share:.0%}", f"{value:.3g}") for share, value in zip(scores["quantiles"], scores["tss_pp"], strict=True)
    ]


def _size(rows: int) -> str:
    """The hub's category of a data set's size."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    bounds += [(10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B")]
    return next((name for bound, name in bounds if rows < bound), "1B<n<10B")
