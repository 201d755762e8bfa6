"""Charts of a report as Vega-Lite specifications, which the page's script draws. Colours are variables of the page's style, so
that light, dark and print each have their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.figures import Cell, Figures, Histogram, Move, Plane
from pipeline.report.scales import Scale

Spec = dict[str, Any]

HEIGHT = 190  # pixels; charts are as wide as the column in which they stand
_SHADES = 5  # of cells, from few rows to many
EVERY, TAKEN = "all rows", "selected"
CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": "var(--line)"},
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--line)",
        "domainColor": "var(--faint)",
        "tickColor": "var(--faint)",
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "orient": "top",
        "symbolType": "square",
    },
}
# Who does not tell the hues apart tells the dashes apart.
_LINES = [f"var(--line-{number})" for number in range(7)]
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3], [10, 4]]


def charts(figures: Figures) -> dict[str, Spec]:
    """The charts of a report by name; those for which there are no figures are left out."""
    made = {f"distribution-{each.column}": _histogram(each) for each in figures.histograms}
    if figures.plane is not None:
        made["plane"] = _plane(figures.plane)
    if figures.by_rank:
        made["by-rank"] = _by_rank(figures.by_rank)
    for name in ("tss_pp", "ppl"):
        if any(move.medians[name] is not None for move in figures.moves):
            made[f"moves-{name}"] = _moves(figures.moves, name)
    return made


def _scaled(field: str, title: str, scale: Scale, **more: Any) -> Spec:
    """An axis of a scale of ours. Domains are ours too: no bin lies beyond them."""
    drawn: Spec = {"type": scale.kind, "domain": [scale.low, scale.high], "nice": False}
    if scale.kind == "symlog":
        drawn |= {"constant": scale.constant, "zero": False}
    axis = {"values": scale.ticks(), "format": "~g", "grid": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": drawn, "axis": axis, **more}


def _histogram(histogram: Histogram) -> Spec:
    edges = histogram.edges
    rows = [
        {"from": edges[i], "to": edges[i + 1], "share": share, "rows": name}
        for name, shares in ((EVERY, histogram.every), (TAKEN, histogram.selected))
        for i, share in enumerate(shares)
        if share
    ]
    return {
        "description": f"Histogram of {histogram.column}: shares of all rows, and of the selected rows, in bins.",
        "height": HEIGHT,
        "data": {"values": rows},
        "encoding": {
            "x": _scaled("from", histogram.column, histogram.scale),
            "x2": {"field": "to"},
            "y": {
                "field": "share",
                "type": "quantitative",
                "title": "share of its rows",
                "stack": None,
                "axis": {"format": ".0%", "tickCount": 4},
            },
            "color": {
                "field": "rows",
                "title": None,
                "scale": {"domain": [EVERY, TAKEN], "range": ["var(--every)", "var(--taken)"]},
            },
            "tooltip": [
                {"field": "rows", "title": "rows"},
                {"field": "from", "type": "quantitative", "format": ".3~g"},
                {"field": "to", "type": "quantitative", "format": ".3~g"},
                {"field": "share", "type": "quantitative", "format": ".1%"},
            ],
        },
        "layer": [
            {"transform": [{"filter": {"field": "rows", "equal": EVERY}}], "mark": {"type": "bar", "opacity": 0.9}},
            {
                "transform": [{"filter": {"field": "rows", "equal": TAKEN}}],
                "mark": {"type": "bar", "fillOpacity": 0.3, "stroke": "var(--taken)", "strokeWidth": 1.2},
            },
        ],
    }


def _plane(plane: Plane) -> Spec:
    most = max(cell.rows for cell in plane.cells)
    rows = [_cell(cell, most, plane) for cell in plane.cells]
    axes = {"x": _scaled("x", "ppl", plane.x), "y": _scaled("y", "tss_pp", plane.y)}
    tooltip = [{"field": name, "type": "quantitative"} for name in ("rows", "selected")]
    return {
        "description": "All rows in cells of ppl and tss_pp, darker where there are more; circles: how many are selected.",
        "height": 320,
        "data": {"values": rows},
        "encoding": {"tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "rect", "color": "var(--every)"},
                "encoding": {
                    **axes,
                    "x2": {"field": "x2"},
                    "y2": {"field": "y2"},
                    "opacity": {
                        "field": "shade",
                        "type": "ordinal",
                        "legend": None,
                        "scale": {"domain": list(range(_SHADES)), "range": [0.2, 0.36, 0.54, 0.74, 1.0]},
                    },
                },
            },
            {
                "transform": [{"filter": {"field": "selected", "gt": 0}}],
                "mark": {"type": "circle", "color": "var(--taken)", "opacity": 0.85},
                "encoding": {
                    "x": {**axes["x"], "field": "middle_x"},
                    "y": {**axes["y"], "field": "middle_y"},
                    "size": {
                        "field": "selected",
                        "type": "quantitative",
                        "title": TAKEN,
                        "scale": {"range": [6, 170], "zero": True},
                        "legend": {"symbolType": "circle", "symbolFillColor": "var(--taken)", "tickCount": 3},
                    },
                },
            },
        ],
    }


def _cell(cell: Cell, most: int, plane: Plane) -> dict[str, Any]:
    shade = int(_SHADES * math.log1p(cell.rows) / math.log1p(most) * 0.999)
    return {
        "x": cell.x[0],
        "x2": cell.x[1],
        "middle_x": _middle(cell.x, plane.x),
        "y": cell.y[0],
        "y2": cell.y[1],
        "middle_y": _middle(cell.y, plane.y),
        "rows": cell.rows,
        "selected": cell.selected,
        "shade": shade,
    }


def _middle(ends: tuple[float, float], scale: Scale) -> float:
    return float(scale.back(scale.forward(np.array(ends)).mean()[None])[0])


def _by_rank(bins: Sequence[tuple[float, float]]) -> Spec:
    begin = [0.0, *(end for end, _ in bins)]
    rows = [{"from": begin[i], "to": end, "share": share} for i, (end, share) in enumerate(bins)]
    percent = [
        {"field": name, "title": title, "type": "quantitative", "format": ".0%"}
        for name, title in (("from", "from the best"), ("to", "to the best"), ("share", TAKEN))
    ]
    return {
        "description": "The share of rows that is selected, by their rank under the score, the best first.",
        "height": HEIGHT,
        "data": {"values": rows},
        "mark": {"type": "bar", "color": "var(--taken)"},
        "encoding": {
            "x": {
                "field": "from",
                "type": "quantitative",
                "title": "rows by score, the best first",
                "scale": {"domain": [0, 1]},
                "axis": {"format": ".0%", "tickCount": 5, "grid": False},
            },
            "x2": {"field": "to"},
            "y": {
                "field": "share",
                "type": "quantitative",
                "title": "share selected",
                "axis": {"format": ".0%", "tickCount": 4},
            },
            "tooltip": percent,
        },
    }


def temperature_name(temperature: float) -> str:
    """A temperature in words."""
    return "infinite" if math.isinf(temperature) else f"{temperature:g}"


def _moves(moves: Sequence[Move], name: str) -> Spec:
    names = list(dict.fromkeys(temperature_name(move.temperature) for move in moves))
    rows = [
        {"budget": move.budget, "median": move.medians[name], "temperature": temperature_name(move.temperature)}
        for move in moves
        if move.medians[name] is not None
    ]
    return {
        "description": f"The median {name} of selections by budget, a line for each temperature.",
        "height": HEIGHT,
        "data": {"values": rows},
        "mark": {"type": "line", "point": {"size": 26}, "strokeWidth": 2},
        "encoding": {
            "x": {
                "field": "budget",
                "type": "quantitative",
                "title": "budget, of what all rows cost",
                "scale": {"type": "log", "nice": False},
                "axis": {"format": "~%", "values": sorted({move.budget for move in moves}), "grid": False},
            },
            "y": {
                "field": "median",
                "type": "quantitative",
                "title": f"median {name}",
                "scale": {"zero": False},
                "axis": {"tickCount": 4},
            },
            "color": {
                "field": "temperature",
                "sort": names,
                "scale": {"domain": names, "range": _LINES[: len(names)]},
                "legend": {"columns": 4, "symbolType": "stroke"},
            },
            "strokeDash": {
                "field": "temperature",
                "sort": names,
                "scale": {"domain": names, "range": _DASHES[: len(names)]},
                "legend": {"columns": 4},
            },
            "tooltip": [
                {"field": "temperature"},
                {"field": "budget", "type": "quantitative", "format": ".2%"},
                {"field": "median", "type": "quantitative", "format": ".3~g"},
            ],
        },
    }
