"""Rows that the scorer rejects, as REJECTED has them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from operators.rejections import Rejection


def reasons_of(rejected: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """By source, how many REJECTED rows have each reason."""
    reasons: dict[str, dict[str, int]] = {}
    for row in rejected:
        of_source = reasons.setdefault(row["source"], {})
        of_source[row["reason"]] = of_source.get(row["reason"], 0) + 1
    return reasons


def rejected_row(row: pa.Table, rejection: Rejection) -> dict[str, Any]:
    """The REJECTED row of an ENCODED row."""
    texts = ("instruction", "input", "output", "messages", "turn", "extra")
    (values,) = row.select(["source", "file", "line", *texts]).to_pylist()
    return {
        **{name: values[name] for name in ("source", "file", "line")},
        "raw": json.dumps({name: values[name] for name in texts if values[name] is not None}),
        "reason": rejection.reason,
        "detail": rejection.detail.encode("utf-8", "backslashreplace").decode(),
    }
