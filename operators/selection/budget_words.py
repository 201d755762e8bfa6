"""Budgets as people write them: "10%", "2k", "500 rows", 0.1, in place of a number under the name of its unit."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

FORMS = (
    "10% or 0.1 (of the corpus' tokens), 20000 or 20k (tokens), 500 rows, 10% of rows; or a number with its unit, such as "
    "{token_fraction: 0.05}, {tokens: 20000}, {examples: 500} or {example_fraction: 0.1}"
)
_TEXT = re.compile(
    r"(?P<number>[0-9]{1,3}(?:[,_][0-9]{3})+|[0-9]*\.?[0-9]+)\s*(?P<sign>%|[kKmMgGbB])?\s*"
    r"(?:of\s+)?(?:all\s+|the\s+)*(?P<unit>tokens?|examples?|rows?)?"
)
_TIMES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_MOST_CHARS = 40
_PERCENT = 100


def budget_of(value: Any) -> dict[str, float]:
    """The budget in the form {unit: number}; raises ValueError that lists the forms. Without a unit a number is tokens, and one
    below 1 their share. From 1 to 100 it may be a share or percent as well, and is refused."""
    if isinstance(value, dict):
        return {name: _amount(name, asked) for name, asked in value.items()}
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"accepted: {FORMS}")
    return _of_text(str(value)) if isinstance(value, str) else _without_unit(value)


def _without_unit(number: float) -> dict[str, float]:
    if 0 < number < 1:
        return {"token_fraction": number}
    if number == 1:
        raise ValueError(f"1 may be one token or all of them; accepted: {FORMS}")
    if 1 < number <= _PERCENT:
        raise ValueError(f"{number:g} may be tokens or percent; accepted: {number:g}%, '{number:g} tokens', or {FORMS}")
    return {"tokens": number}


def _of_text(text: str) -> dict[str, float]:
    parts = _TEXT.fullmatch(text.strip()) if len(text) <= _MOST_CHARS else None
    if parts is None:
        raise ValueError(f"accepted: {FORMS}")
    sign, unit = (parts["sign"] or "").lower(), parts["unit"] or "tokens"
    name = "token" if unit.startswith("token") else "example"
    number = Decimal(re.sub("[,_]", "", parts["number"]))
    if sign == "%":
        return {f"{name}_fraction": float(number / 100)}
    number *= _TIMES[sign]
    if 1 <= number <= _PERCENT and not sign and not parts["unit"]:
        return _without_unit(float(number))
    if number < 1:
        return {f"{name}_fraction": float(number)}
    return {f"{name}s": float(number) if number != int(number) else int(number)}


def _amount(name: str, asked: Any) -> float:
    """The number under the name of a unit: as it is, or of a text such as 2k or 10%."""
    if isinstance(asked, (int, float)) and not isinstance(asked, bool):
        return asked
    if isinstance(asked, str):
        ((unit, number),) = _of_text(asked).items()
        fraction = unit.endswith("fraction")
        if fraction == name.endswith("fraction"):
            return number
    raise ValueError(f"accepted: {FORMS}")
