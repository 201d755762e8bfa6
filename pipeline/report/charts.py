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
    """An axis of a scale of ours, of values from its origin on. Domains are ours too: no bin lies beyond them."""
    drawn: Spec = {"type": scale.kind, "domain": _from_origin(scale, scale.low, scale.high), "nice": False}
    if scale.kind == "symlog":
        drawn |= {"constant": scale.constant, "zero": False}
    axis: Spec = {"values": _from_origin(scale, *scale.ticks()), "grid": False}
    axis |= {"labelExpr": f"format(datum.value + {scale.origin}, ',.3~r')"}
    return {"field": field, "type": "quantitative", "title": title, "scale": drawn, "axis": axis, **more}


def _from_origin(scale: Scale, *values: float) -> list[float]:
    return [value - scale.origin for value in values]


def _histogram(histogram: Histogram) -> Spec:
    edges, places = histogram.edges, _from_origin(histogram.scale, *histogram.edges)
    rows = [
        {"x": places[i], "x2": places[i + 1], "from": edges[i], "to": edges[i + 1], "share": share, "rows": name}
        for name, shares in ((EVERY, histogram.every), (TAKEN, histogram.selected))
        for i, share in enumerate(shares)
        if share
    ]
    return {
        "description": f"Histogram of {histogram.column}: shares of all rows, and of the selected rows, in bins.",
        "height": HEIGHT,
        "data": {"values": rows},
        "encoding": {
            "x": _scaled("x", histogram.column, histogram.scale),
            "x2": {"field": "x2"},
            "y2": {"datum": 0},
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
                "legend": {"symbolStrokeWidth": 0, "symbolOpacity": 1},
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
            {"transform": [{"filter": {"field": "rows", "equal": EVERY}}], "mark": {"type": "bar", "aria": False}},
            {
                "transform": [{"filter": {"field": "rows", "equal": TAKEN}}],
                "mark": {
                    "type": "bar",
                    "aria": False,
                    "fillOpacity": 0.3,
                    "stroke": "var(--taken)",
                    "strokeWidth": 1.2,
                },
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
                "mark": {"type": "rect", "color": "var(--every)", "aria": False},
                "encoding": {
                    **axes,
                    "x2": {"field": "x2"},
                    "y2": {"field": "y2"},
                    "opacity": {"field": "shade", "type": "quantitative", "scale": None, "legend": None},
                },
            },
            {
                "transform": [{"filter": {"field": "selected", "gt": 0}}],
                "mark": {"type": "circle", "aria": False, "color": "var(--taken)", "opacity": 0.85},
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
    (x, x2, middle_x), (y, y2, middle_y) = (
        _from_origin(scale, *ends, _middle(ends, scale)) for ends, scale in ((cell.x, plane.x), (cell.y, plane.y))
    )
    return {
        "x": x,
        "x2": x2,
        "middle_x": middle_x,
        "y": y,
        "y2": y2,
        "middle_y": middle_y,
        "rows": cell.rows,
        "selected": cell.selected,
        "shade": round(0.25 + 0.75 * math.log(cell.rows) / max(1.0, math.log(most)), 2),
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
            "y2": {"datum": 0},
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
                "axis": {"format": ".2~p", "values": sorted({move.budget for move in moves}), "grid": False},
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
