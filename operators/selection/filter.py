"""Filters and scores over the columns of a scored table: "ppl < 200 and ifd < 1", {tss_pp: 1, ifd: 0.5}.

An expression is parsed with Python's own grammar and only what is listed here is accepted; nothing is ever evaluated by
Python, so an expression from a config file can compare columns and do nothing else.
"""

from __future__ import annotations

import ast
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import SCORED
from operators.selection import ranks

SCORE_CHOICES = tuple(
    field.name
    for field in SCORED
    if (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    and field.name not in ("tss_pp_bound", "weight")  # a weight follows from the score
)
_COMPARE: dict[type, Callable[..., Any]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_ARITHMETIC: dict[type, Callable[..., Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_ACCEPTED = (
    f"column names, numbers, quoted text, < <= > >= == !=, in [..], + - * /, and, or, not, (..), {ranks.ACCEPTED}"
)


class WhereProblem(ValueError):
    """An expression that cannot be understood, or that does not fit the columns."""


def parse(expression: str) -> ast.expr:
    """The expression's tree; raises WhereProblem that names what is not accepted."""
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WhereProblem(f"{expression!r} is not an expression ({error}); accepted: {_ACCEPTED}") from error
    _check(tree, expression)
    return tree


def check(expression: str) -> None:
    """Raise WhereProblem where `expression` cannot be parsed, or does not fit the columns of the scored table."""
    tree = parse(expression)
    if column_names(tree) <= set(SCORED.names):
        evaluate(parse(ranks.replaced(tree, {})), SCORED.empty_table())


def _check(node: ast.AST, expression: str) -> None:
    allowed = (
        ast.BoolOp,
        ast.And,
        ast.Or,
        ast.UnaryOp,
        ast.Not,
        ast.USub,
        ast.BinOp,
        ast.Compare,
        ast.Name,
        ast.Load,
        ast.Constant,
        ast.List,
        ast.Tuple,
        ast.In,
        ast.NotIn,
        ast.Call,
        *_COMPARE,
        *_ARITHMETIC,
    )
    for part in ast.walk(node):
        if not isinstance(part, allowed) or (
            isinstance(part, ast.Constant) and not isinstance(part.value, (int, float, str, bool))
        ):
            refused = ast.unparse(part) if isinstance(part, ast.expr) else type(part).__name__
            raise WhereProblem(f"{refused!r} in {expression!r} is not accepted; accepted: {_ACCEPTED}")
    if (call := ranks.problem_of(node)) is not None:
        raise WhereProblem(f"{ast.unparse(call)!r} in {expression!r} is not accepted; accepted: {_ACCEPTED}")
    if isinstance(node, (ast.Name, ast.Constant, ast.BinOp)):
        raise WhereProblem(f"{expression!r} compares nothing; accepted: {_ACCEPTED}")


def clauses(expression: str) -> list[str]:
    """The conditions that `and` joins at the outermost level, each an expression of its own; raises WhereProblem."""
    tree = parse(expression)
    joined = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
    return [ast.unparse(part) for part in tree.values] if joined and isinstance(tree, ast.BoolOp) else [expression]


def column_names(node: ast.expr) -> set[str]:
    """The columns that an expression uses."""
    functions = ranks.names_of_functions(node)
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and id(part) not in functions}


def has_ranks(node: ast.expr) -> bool:
    """Whether an expression compares ranks, which are known once all rows are."""
    return bool(ranks.tests_of(node))


def needed_columns(names: set[str]) -> list[str]:
    """The stored columns to read for these names: columns of their own, and `extra` for all that are user columns."""
    needed = names | {"extra"} if names - set(SCORED.names) else names
    return [name for name in SCORED.names if name in needed]


def column(table: pa.Table, name: str, kind: type | None = None) -> pa.ChunkedArray | pa.Array:
    """A column of the scored table, or the user column of that name from `extra` (null where a row has none).

    A user column may hold numbers in some rows and text in others: `kind` (float or str) says which of them are meant, and
    the others are null. Without it, numbers if there is nothing else, or all as text.
    """
    if name in SCORED.names:
        return table[name]
    values = [json.loads(text).get(name) for text in table["extra"].to_pylist()]
    kinds = {type(value) for value in values if value is not None}
    if kind is float or (kind is None and kinds <= {int, float}):
        return pa.array([_float(value) if isinstance(value, (int, float)) else None for value in values], pa.float64())
    if kind is str:
        return pa.array([value if isinstance(value, str) else None for value in values], pa.string())
    return pa.array(
        [
            None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in values
        ],
        pa.string(),
    )


def group_name(value: Any) -> str:
    """A value of a column as the name of its group: text as it is, what is equal under JSON by one name."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def groups(table: pa.Table, name: str) -> pa.Array:
    """The group of each row by a stored or user column, as text; null where it has no value."""
    if name in SCORED.names and not pa.types.is_nested(table[name].type):  # each distinct value is named once
        encoded = table[name].combine_chunks().dictionary_encode()
        return _group_names(encoded.dictionary.to_pylist()).take(encoded.indices)
    stored = name in SCORED.names
    return _group_names(
        table[name].to_pylist() if stored else [json.loads(text).get(name) for text in table["extra"].to_pylist()]
    )


def _group_names(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else group_name(value) for value in values], pa.string())


def _float(value: float) -> float:
    """A row's number, which JSON allows to have any number of digits, as float64."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def evaluate(expression: ast.expr, table: pa.Table) -> np.ndarray:
    """Bool [N]: where the expression is true. A comparison with null is not true. Raises WhereProblem."""
    try:
        result = _evaluate(expression, table)
    # The second is how pyarrow says that an operation is not defined for these types, such as text above a number.
    # The last are of a number that no column can hold, and of an expression nested too deeply.
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError, RecursionError) as error:
        shown = "the expression" if isinstance(error, RecursionError) else repr(ast.unparse(expression))
        raise WhereProblem(
            f"{shown} does not fit its columns: {str(error).splitlines()[0]}; accepted in select.where: numbers "
            "compared with numbers, text with text"
        ) from error
    mask = pc.fill_null(result, False)
    return np.asarray(
        mask.to_numpy(zero_copy_only=False) if isinstance(mask, pa.Array) else mask.to_numpy(), dtype=bool
    )


def _evaluate(node: ast.expr, table: pa.Table) -> Any:
    match node:
        case ast.Constant(value=value):
            return pa.scalar(value)
        case ast.Name(id=name):
            return column(table, name)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_evaluate(operand, table))
        case ast.UnaryOp(operand=operand):
            return pc.negate(_evaluate(operand, table))
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](
                pc.cast(_operand(left, table, float), pa.float64()),
                pc.cast(_operand(right, table, float), pa.float64()),
            )
        case ast.BoolOp(op=op, values=values):
            combine = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
            return functools.reduce(combine, [_evaluate(value, table) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _compare(left, ops, comparators, table)
    raise WhereProblem(f"{ast.unparse(node)!r} is not accepted here; accepted: {_ACCEPTED}")


def _compare(left: ast.expr, ops: list[ast.cmpop], comparators: list[ast.expr], table: pa.Table) -> Any:
    result = None
    kind = _kind_of([left, *comparators])
    for op, right in zip(ops, comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.List, ast.Tuple)) or not all(
                isinstance(item, ast.Constant) for item in right.elts
            ):
                raise WhereProblem(f"'in' needs a list of values, found {ast.unparse(right)!r}")
            values = [item.value for item in right.elts if isinstance(item, ast.Constant)]
            holds = pc.is_in(_operand(left, table, kind), value_set=pa.array(values))
            holds = pc.invert(holds) if isinstance(op, ast.NotIn) else holds
        else:
            holds = _COMPARE[type(op)](_operand(left, table, kind), _operand(right, table, kind))
        result = holds if result is None else pc.and_kleene(result, holds)
        left = right
    return result


def _kind_of(nodes: list[ast.expr]) -> type | None:
    """Whether a comparison is of numbers or of text, by what is written out in it."""
    constants = [part.value for node in nodes for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return None if not constants else str if isinstance(constants[0], str) else float


def _operand(node: ast.expr, table: pa.Table, kind: type | None) -> Any:
    return column(table, node.id, kind) if isinstance(node, ast.Name) else _evaluate(node, table)


def numeric(table: pa.Table, name: str) -> np.ndarray:
    """Float64 [N] of a numeric column, stored or the user's; NaN where it is null, not a number or not finite."""
    values = column(table, name, float).cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def score_of(
    table: pa.Table, score: str | Mapping[str, float], moments: Mapping[str, tuple[float, float]]
) -> np.ndarray:
    """Float64 [N]: a column, or a weighted sum of columns standardised by `moments` (mean, deviation); NaN is null."""
    if isinstance(score, str):
        return numeric(table, score)
    total = np.zeros(len(table))
    for name, weight in score.items():
        mean, deviation = moments[name]
        values = numeric(table, name)
        # A column that does not vary says nothing; it still keeps its null rows out.
        total += weight * (values - mean) / deviation if deviation > 0 else values * 0.0
    return total
