"""An explanation as HTML: a page without scripts, and a section of a notebook or of another page. Every text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from pipeline.inspection.explain_words import LEVELS
from pipeline.inspection.explanation import Explanation, shown_pieces

_PAGE = Path(__file__).parent / "explain.html.jinja"
_FULL = 3.0  # nats at which a colour is at its strongest


def page(explanation: Explanation) -> str:
    """The whole page."""
    return _rendered(explanation, whole=True)


def section(explanation: Explanation) -> str:
    """The page's content alone."""
    return _rendered(explanation, whole=False)


def _rendered(explanation: Explanation, *, whole: bool) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    tokens = explanation.tokens
    pieces = [
        [(text, nats, _style(nats)) for text, nats in shown_pieces(tokens, number)] if tokens else []
        for number in range(len(explanation.alternatives))
    ]
    template = environment.from_string(_PAGE.read_text(encoding="utf-8"))
    shades = [(f"{nats:+g}", _style(nats)) for nats in (*(-level for level in reversed(LEVELS)), *LEVELS)]
    return template.render(row=explanation, pieces=pieces, shades=shades, whole=whole)


def _style(nats: float) -> str:
    strength = min(abs(nats) / _FULL, 1.0) * 0.7
    return (
        f"background: rgba({'30, 150, 60' if nats > 0 else '210, 40, 40'}, {strength:.2f})" if strength >= 0.01 else ""
    )


def _number(value: Any, form: str = ".4g") -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:{form}}"
