"""Ranks in filters: `rank_of(tss_pp) < 0.33` and `percentile(ppl) <= 0.9`, over all scored rows, exact and with ties as one.

`percentile(x)` of a row is the share of rows whose x is lower, `rank_of(x)` the share of rows whose x is higher: 0 for the
lowest, and 0 for the highest. Rows without a number in x have neither, and do not count. Both rise with x, or fall with it, so
a comparison with a number is one of x itself with the value of the row that stands at a place of the order: only that value has
to be found.
"""

from __future__ import annotations

import ast
import copy
import math
import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

RANK_OF, PERCENTILE = FUNCTIONS = ("rank_of", "percentile")
_MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
ACCEPTED = "rank_of(column) or percentile(column), compared by < <= > >= with a number"


class RankTest(NamedTuple):
    """A comparison `function(column) op share`."""

    function: str
    column: str
    op: str  # Lt, LtE, Gt or GtE
    share: Fraction

    def last(self, rows: int) -> int:
        """How many of `rows` values may at most be beyond that of a row, for `<` and `<=` to hold, and for others not to."""
        asked = self.share * rows
        return math.ceil(asked) - 1 if self.op in ("Lt", "GtE") else math.floor(asked)

    def place(self, rows: int) -> int | None:
        """The place from the highest value, from 0, of the value that decides; None where all rows are on one side."""
        last = self.last(rows)
        if not 0 <= last < rows:
            return None
        return last if self.function == RANK_OF else rows - 1 - last


def problem_of(tree: ast.AST) -> ast.expr | None:
    """The first part of an expression that uses a function in another way than this."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    compared = [call for node in ast.walk(tree) if isinstance(node, ast.Compare) for call in _tests_of(node)]
    return next((call for call in calls if call not in compared), None)


def _tests_of(node: ast.Compare) -> list[ast.expr]:
    """The calls in a comparison all of whose neighbours are numbers."""
    operands = [node.left, *node.comparators]
    good = []
    for place, call in enumerate(operands):
        beside = [operands[other] for other in (place - 1, place + 1) if 0 <= other < len(operands)]
        ops = node.ops[max(0, place - 1) : place + 1]
        numbers = all(_number(other) is not None for other in beside)
        if _is_rank(call) and numbers and all(type(op) in _MIRRORED for op in ops):
            good.append(call)
    return good


def _is_rank(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in FUNCTIONS
        and not node.keywords
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Name)
    )


def _number(node: ast.expr) -> Fraction | None:
    """A number that is written out, as it is written: 0.33 is 33 of 100 rows."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Fraction(repr(value))
    return None


def names_of_functions(tree: ast.AST) -> set[int]:
    """The identities of the nodes that name a function, and no column."""
    return {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def tests_of(tree: ast.expr) -> list[RankTest]:
    """All comparisons with ranks in a checked expression."""
    seen = _Replaced({})
    seen.visit(copy.deepcopy(tree))  # which it changes
    return list(dict.fromkeys(seen.tests))


def replaced(tree: ast.expr, values: Mapping[RankTest, float | None]) -> str:
    """The expression with each comparison of ranks as one of the column with the value that decides; None where all rows with
    a number are on one side."""
    return ast.unparse(_Replaced(values).visit(copy.deepcopy(tree)))


class _Replaced(ast.NodeTransformer):
    """Puts comparisons of columns in place of those of ranks, of which it keeps a list."""

    def __init__(self, values: Mapping[RankTest, float | None]):
        self._values = values
        self.tests: list[RankTest] = []

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        operands = [node.left, *node.comparators]
        if not any(isinstance(operand, ast.Call) for operand in operands):
            return node
        pairs = [self._pair(operands[place], op, operands[place + 1]) for place, op in enumerate(node.ops)]
        return pairs[0] if len(pairs) == 1 else ast.BoolOp(ast.And(), pairs)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> ast.expr:
        call, number, kind = (
            (left, right, type(op)) if isinstance(left, ast.Call) else (right, left, _MIRRORED[type(op)])
        )
        share = _number(number)
        if not isinstance(call, ast.Call) or share is None:
            return ast.Compare(left, [op], [right])
        column = call.args[0]
        test = RankTest(ast.unparse(call.func), ast.unparse(column), kind.__name__, share)
        self.tests.append(test)
        return _of_column(test, column, self._values.get(test), share)


def _of_column(test: RankTest, column: ast.expr, value: float | None, share: Fraction) -> ast.expr:
    within = test.op in ("Lt", "LtE")
    if value is None:  # all have a share below 1, and none below 0
        holds = (share > 0) == within
        return _compare(column, ast.LtE() if holds else ast.Gt(), sys.float_info.max)
    higher = (test.function == RANK_OF) == within
    if within:
        return _compare(column, ast.GtE() if higher else ast.LtE(), value)
    return _compare(column, ast.Gt() if higher else ast.Lt(), value)


def _compare(column: ast.expr, op: ast.cmpop, value: float) -> ast.expr:
    return ast.Compare(column, [op], [ast.Constant(float(value))])
