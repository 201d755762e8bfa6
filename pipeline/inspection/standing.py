"""Why a row is among the selected ones or not, in figures and in words."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.scoring.scores import random_of
from operators.selection import filter
from operators.selection.conversations import unit_names
from pipeline.config_select import Select
from pipeline.errors import DamagedInput
from pipeline.inspection.find_row import FoundRow
from pipeline.inspection.replay import Budgeted, Replay, replay
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.selection.rank_values import in_this_process, without_ranks
from pipeline.storage.parts import DamagedPart, read_columns
from pipeline.storage.records import BlockPart

_SELECTED = pa.schema([pa.field("id", pa.string()), pa.field("selection_rank", pa.int64())])
_CHARS = 60  # of a value of a column that is shown


@dataclass(frozen=True)
class Standing:
    """Whether a row is selected, and by what that was decided: `selected`, `score` (it has none), `filter`, `quota`, `cap`,
    `budget`, `conversation` (another turn of it has no score or does not pass the filter), or `unknown`; `words` say it.

    `selection_rank` from 0 as in `selected/`; `place` from 0 among the `competing` rows or conversations that draw on the same
    budget, of which the first `taken` fit; `key` by which they are ranked, `last_key` that of the last that fits."""

    selected: bool
    decided_by: str
    words: str
    selection_rank: int | None = None
    place: int | None = None
    competing: int | None = None
    taken: int | None = None
    key: float | None = None
    last_key: float | None = None


def standing_of(run: str, manifest: Manifest, row: FoundRow) -> Standing:
    """The standing of a scored row; raises DamagedInput."""
    rank, selected = _published_rank(run, manifest, row.id)
    # Early releases selected from the top of the ranking.
    select = Select.model_validate({"temperature": 0.0, **manifest.config["select"]})
    unknown = Standing(selected, "unknown", "", rank)
    if manifest.budget is None:
        return _with(unknown, "this run was made by an early release, whose manifest does not say what its budget was")
    scored = open_run.parts_of(run, manifest.files["scored"])
    try:
        decided = without_ranks(scored, select.where, in_this_process)
        select = select.model_copy(update={"where": decided})
        again = replay(scored, select, manifest.seed, manifest.budget.asked, row.part.block, row.place)
    except DamagedPart as damaged:
        raise DamagedInput("explain", str(damaged)) from damaged
    if again.selected != selected:
        return _with(
            unknown,
            f"the run was published {'with' if selected else 'without'} this row, and its settings and scores would now decide "
            "otherwise: another release has selected it",
        )
    if again.budget is not None:
        return _under_budget(again.budget, select, manifest, row, rank)
    decided_by, words = _left_out(again, select, row, scored)
    return Standing(selected, decided_by, words)


def _with(standing: Standing, words: str) -> Standing:
    chosen = "selected" if standing.selected else "not selected"
    return Standing(standing.selected, "unknown", f"{chosen}; {words}", standing.selection_rank)


def _published_rank(run: str, manifest: Manifest, id: str) -> tuple[int | None, bool]:
    """The rank of a row in `selected/`, and whether it is there."""
    for record in open_run.parts_of(run, manifest.files.get("selected", [])):
        try:
            table = read_columns(record.part.path, _SELECTED)
        except DamagedPart as damaged:
            raise DamagedInput("explain", str(damaged)) from damaged
        for row in table.filter(pc.equal(table["id"], id)).to_pylist():
            return row["selection_rank"], True
    return None, False


def _under_budget(budget: Budgeted, select: Select, manifest: Manifest, row: FoundRow, rank: int | None) -> Standing:
    """A row that competes: taken, or after the end."""
    selected = budget.before < budget.taken
    unit = "conversations" if select.unit == "conversation" else "rows"
    money = manifest.budget.unit if manifest.budget else ""
    share = f" of group {budget.name!r}" if budget.name else ""
    cost = "" if money == "examples" else f", {budget.used:,} {money}"
    words = [
        f"selected, selection_rank {rank} of {manifest.counts.selected:,} rows"
        if selected
        else f"not selected: {budget.before:,} of {budget.competing:,} {unit} stand before it, and the first {budget.taken:,}"
        f"{cost}, are what fits into the budget{share} of {budget.room:,} {money}",
        _ranked_by(select, manifest.seed, row, budget.key),
    ]
    if budget.last_key is not None:
        words.append(f"the last {unit[:-1]} that fits has {budget.last_key:.6g}")
    if not selected and budget.before == budget.taken:
        words.append(
            f"it is the first that does not fit: it costs {budget.cost:,}, {budget.room - budget.used:,} are left"
        )
    return Standing(
        selected=selected,
        decided_by="selected" if selected else "budget",
        words="; ".join(words),
        selection_rank=rank,
        place=budget.before,
        competing=budget.competing,
        taken=budget.taken,
        key=budget.key,
        last_key=budget.last_key,
    )


def _ranked_by(select: Select, seed: int, row: FoundRow, key: float) -> str:
    """By what number a row is ranked, and how that comes about."""
    score = select.score if isinstance(select.score, str) else f"{select.score}"
    whole = f"the {select.unit_score} of its conversation's " if select.unit == "conversation" else ""
    if not select.drawn_at:
        return f"ranked by {whole}{score}: {key:.6g}"
    drawn = float(random_of(unit_names(row.columns), seed)[0]) if whole else row.columns["random"][0].as_py()
    return f"drawn by {whole}{score} / {select.drawn_at:g} - log(-log {drawn:.4g}): {key:.6g}"


def _left_out(again: Replay, select: Select, row: FoundRow, scored: list[BlockPart]) -> tuple[str, str]:
    """What kept a row from competing."""
    if again.cap is not None:
        cap = again.cap
        unit = "conversations" if select.unit == "conversation" else "rows"
        group = "no value" if cap.group == "null" else repr(_short(cap.group.removeprefix("=")))
        return "cap", (
            f"not selected: max_per takes {cap.n:,} {unit} of a group by {cap.column}, and {cap.before:,} with {group} stand "
            "before it"
        )
    without = [name for name in select.score_columns() if np.isnan(filter.numeric(row.columns, name))[0]]
    if without:
        return "score", f"not selected: it has no {' and no '.join(without)}{_why_no_score(row, without)}"
    if select.where and not filter.evaluate(filter.parse(select.where), row.columns)[0]:
        return "filter", f"not selected: where: {select.where} is not true of it{_failing(select.where, row)}"
    if select.unit == "conversation" and _fails_in_conversation(select, row, scored):
        return "conversation", (
            "not selected: another turn of its conversation has no score or does not pass `where`, and a conversation is "
            "taken whole or not at all"
        )
    if not select.quota:
        return "unknown", "not selected: its score is no finite number"
    ((column, shares),) = select.quota.items()
    named = ", ".join(map(repr, shares))
    return "quota", f"not selected: quota gives the whole budget to {column} {named}, and it has another {column}"


def _why_no_score(row: FoundRow, without: list[str]) -> str:
    columns = row.columns.select(["n_alternatives", "tss_pp_bound"]).to_pylist()[0]
    if not set(without) <= {"tss", "tss_nce", "tss_pp", "rank"}:
        return ""
    if columns["n_alternatives"] == 0:
        return ": no other instruction may stand for its own (no alternatives)"
    if columns["tss_pp_bound"] is not None:
        return (
            f": the run was bounded, and this row was left once its tss_pp was known to be at most "
            f"{columns['tss_pp_bound']:.6g}, below the end of the budget"
        )
    return ""


def _failing(where: str, row: FoundRow) -> str:
    """The parts of a filter that are not true, with the values of their columns."""
    tree = filter.parse(where)
    clauses = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    failing = [clause for clause in clauses if not filter.evaluate(clause, row.columns)[0]]
    names = sorted({name for clause in failing for name in filter.column_names(clause)})
    values = [f"{name} is {_short(json.dumps(_value(row, name), ensure_ascii=False))}" for name in names]
    shown = " and ".join(ast.unparse(clause) for clause in failing) if len(clauses) > 1 else ""
    return f"{f', since {shown} is not' if shown else ''}: {', '.join(values)}" if values else ""


def _value(row: FoundRow, name: str) -> Any:
    return filter.column(row.columns, name)[0].as_py()


def _fails_in_conversation(select: Select, row: FoundRow, scored: list[BlockPart]) -> bool:
    """Whether some turn of the row's conversation has no score or does not pass the filter."""
    conversation = row.columns["conversation"][0].as_py()
    if conversation is None:
        return False
    names = {"conversation", *select.score_columns()}
    names |= filter.column_names(filter.parse(select.where)) if select.where else set()
    columns = filter.needed_columns(names)
    for record in scored:
        table = read_columns(record.part.path, row.columns.select(columns).schema)
        turns = table.filter(pc.equal(table["conversation"], conversation))
        if len(turns) and select.where and not filter.evaluate(filter.parse(select.where), turns).all():
            return True
        if any(np.isnan(filter.numeric(turns, name)).any() for name in select.score_columns()):
            return True
    return False


def _short(text: str) -> str:
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 1]}…"
