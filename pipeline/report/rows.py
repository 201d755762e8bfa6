"""The rows that a report shows: which ones, and their texts and alternatives, read from the few parts that hold them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import RETRIEVED
from operators.scoring.draw import keys_of
from pipeline.report.tally import BEFORE, SCORED, SELECTION, Look, Tally, read_places
from pipeline.storage.parts import read_table

NEAR_THE_CUT, AT_RANDOM, CHANGED = 15, 25, 10
EXAMPLES = 3  # of rejected rows, of each reason
TEXT, ALTERNATIVE_TEXT, RAW_TEXT = 800, 200, 400  # characters that are shown
_NUMBERS = ("tss", "tss_pp", "tss_pp_bound", "ppl", "ifd", "loglik_mean", "loglik_empty_mean", "length", "rank")
_TEXTS = ("instruction", "input", "output")
_COLUMNS = ["id", "source", "line", *_TEXTS, *_NUMBERS, "alternatives"]

Place = tuple[str, int]  # path of a part, row there


@dataclass(frozen=True)
class Wanted:
    """Rows to show: by place, why each is shown; the parts of rejected rows, and those of the selection."""

    places: dict[Place, list[str]]
    rejected: list[str]
    selected: list[str]


@dataclass(frozen=True)
class Row:
    """A row as it is shown; texts are cut. `alternatives`: text, origin, similarity, mean log-likelihood."""

    id: str
    kinds: list[str]
    source: str
    line: int
    texts: dict[str, str]
    numbers: dict[str, float | None]
    alternatives: list[tuple[str, str, float | None, float | None]]
    selection_rank: int | None = None


@dataclass(frozen=True)
class Material:
    """Rows that are shown, and rejected rows by reason: file, line, detail, what stood there."""

    rows: list[Row]
    rejected: dict[str, list[tuple[str, int, str, str]]] = field(default_factory=dict)


def pick(tally: Tally, look: Look, temperature: float) -> dict[Place, list[str]]:
    """The rows to show of a tally: the best and the worst, those on both sides of the cut, some at random, and some that a
    refresh has moved."""
    places: dict[Place, list[str]] = {}

    def show(kind: str, rows: pa.Table, count: int) -> None:
        for row in rows.slice(0, count).select(["path", "row"]).to_pylist():
            places.setdefault((row["path"], row["row"]), []).append(kind)

    for kind in ("best", "worst"):
        if kind in tally:
            show(kind, tally[kind], len(tally[kind]))
    if "last" in tally:
        show("last taken", tally["last"], NEAR_THE_CUT)
    if SCORED in tally:
        if look.score is not None:
            show("first left out", left_out(tally, temperature), NEAR_THE_CUT)
        show("random", tally[SCORED], AT_RANDOM)
    if BEFORE in tally:
        now = tally[SELECTION] if SELECTION in tally else tally[BEFORE].slice(0, 0)
        show("entered", _without(now, tally[BEFORE]), CHANGED)
        show("left", _without(tally[BEFORE], now), CHANGED)
    return places


def _without(rows: pa.Table, others: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=others["id"].combine_chunks())))


def left_out(tally: Tally, temperature: float) -> pa.Table:
    """The sampled rows that may be taken and are not, those that came closest first."""
    rows = tally[SCORED].filter(tally[SCORED]["passes"])
    if SELECTION in tally:
        rows = _without(rows, tally[SELECTION])
    return rows.take(pa.array(np.argsort(-order_keys(rows, temperature), kind="stable")))


def order_keys(rows: pa.Table, temperature: float) -> np.ndarray:
    """Float64 [N]: by what rows of a tally are ranked, highest first."""
    scores = rows["score"].to_numpy().astype(np.float64)
    uniform = rows["random"].to_numpy().astype(np.float64)
    return keys_of(scores, uniform, temperature)


def read_rows(wanted: Wanted) -> Material:
    """The rows that are shown, with their ranks in the selection, and examples of rejected ones."""
    read: dict[Place, Row] = {}
    by_path: dict[str, list[int]] = {}
    for path, number in wanted.places:
        by_path.setdefault(path, []).append(number)
    for path, numbers in by_path.items():
        table = read_places(path, _COLUMNS, numbers)
        for number, plain in zip(numbers, table.to_pylist(), strict=True):
            read[path, number] = _row(plain, wanted.places[path, number])
    rows = [read[place] for place in wanted.places]
    ranks = _ranks(wanted.selected, [row.id for row in rows])
    shown: dict[str, Row] = {}
    for row in rows:  # a row that is shown for two reasons may come from two tables
        known = shown.get(row.id)
        kinds = [*(known.kinds if known else []), *row.kinds]
        gone = kinds == ["left"]
        shown[row.id] = Row(**{**vars(row), "kinds": kinds, "selection_rank": None if gone else ranks.get(row.id)})
    return Material(list(shown.values()), _rejected(wanted.rejected))


def _row(plain: dict[str, Any], kinds: list[str]) -> Row:
    return Row(
        id=plain["id"],
        kinds=list(kinds),
        source=plain["source"] or "",
        line=plain["line"] or 0,
        texts={name: cut(plain[name] or "", TEXT) for name in _TEXTS},
        numbers={name: plain[name] for name in _NUMBERS},
        alternatives=[
            (
                cut(each["instruction"] or "", ALTERNATIVE_TEXT),
                each.get("origin") or RETRIEVED,
                each.get("similarity"),
                each.get("loglik_mean"),
            )
            for each in plain["alternatives"] or []
        ],
    )


def cut(text: str, length: int) -> str:
    """The beginning of a text, marked where something is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _ranks(selected: list[str], ids: list[str]) -> dict[str, int]:
    """The ranks of those of the rows that are selected."""
    ranks: dict[str, int] = {}
    wanted = pa.array(ids, pa.string())
    for path in selected:
        table = read_table(path, ["id", "selection_rank"])
        table = table.filter(pc.is_in(table["id"], value_set=wanted))
        ranks |= dict(zip(table["id"].to_pylist(), table["selection_rank"].to_pylist(), strict=True))
    return ranks


def _rejected(paths: list[str]) -> dict[str, list[tuple[str, int, str, str]]]:
    """The first rejected rows of each reason, in the order of the parts."""
    examples: dict[str, list[tuple[str, int, str, str]]] = {}
    for path in paths:
        reasons = read_table(path, ["reason"])["reason"].to_pylist()
        seen = Counter({reason: len(rows) for reason, rows in examples.items()})
        places = []
        for place, reason in enumerate(reasons):
            seen[reason] += 1
            if seen[reason] <= EXAMPLES:
                places.append(place)
        if places:
            for row in read_table(path, ["file", "line", "reason", "detail", "raw"]).take(pa.array(places)).to_pylist():
                shown = (row["file"] or "", row["line"] or 0, cut(row["detail"] or "", RAW_TEXT))
                examples.setdefault(row["reason"], []).append((*shown, cut(row["raw"] or "", RAW_TEXT)))
    return dict(sorted(examples.items()))
