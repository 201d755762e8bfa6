"""The account of a run: counts per source and in all, pairs, budget, versions. It adds up or it is not written."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.config import Config
from pipeline.errors import RunFailed
from pipeline.storage.parts import Record

_PACKAGES = (
    "task-specificity",
    "ray",
    "torch",
    "transformers",
    "pyarrow",
    "numpy",
    "sentence-transformers",
    "scikit-learn",
    "datasets",
)


def versions() -> dict[str, str]:
    """Python and the packages that can move a number."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def admitted_counts(records: list[Record]) -> dict[str, dict[str, Any]]:
    """Per source: rows read and rejected by reason, from the records of the read stage."""
    counts: dict[str, dict[str, Any]] = {}
    for record in records:
        one = counts.setdefault(record["source"], {"read": 0, "rejected": {}})
        one["read"] += record["read"]
        for reason, number in record["reasons"].items():
            one["rejected"][reason] = one["rejected"].get(reason, 0) + number
    return counts


def add_scored(counts: dict[str, dict[str, Any]], records: list[Record]) -> dict[str, dict[str, Any]]:
    """The same counts with duplicates, scored and unscored rows, and those rejected while scoring; raises RunFailed where a
    row has been lost."""
    result = {
        source: {**one, "rejected": Counter(one["rejected"]), "duplicates": 0, "scored": 0, "unscored": 0, "bounded": 0}
        for source, one in counts.items()
    }
    for record in records:
        for source, found in record["sources"].items():
            result[source]["scored"] += found["scored"]
            result[source]["unscored"] += found["unscored"]
            result[source]["bounded"] += found["bounded"]
        for source, number in record["duplicates"].items():
            result[source]["duplicates"] += number
        for source, reasons in record["reasons"].items():
            result[source]["rejected"].update(reasons)
    for source, one in result.items():
        accounted = sum(one["rejected"].values()) + one["duplicates"] + one["scored"]
        if one["read"] != accounted:
            raise RunFailed(
                "accounts",
                f"source {source!r}: {one['read']} rows read, {accounted} accounted for; nothing is published",
            )
    return result


def in_all(counts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Sums over sources, with the sources under `sources`."""
    names = ("read", "duplicates", "scored", "unscored", "bounded", "selected")
    total: dict[str, Any] = {"rejected": {}, **dict.fromkeys(names, 0)}
    for one in counts.values():
        for name, value in one.items():
            if isinstance(value, dict):
                for reason, number in value.items():
                    total["rejected"][reason] = total["rejected"].get(reason, 0) + number
            else:
                total[name] += value
    return {**total, "sources": counts}


def work_of(blocks: list[Record]) -> dict[str, int]:
    """What scoring cost in all, as `operators.scoring.score_rows.Work` and processes that loaded the model."""
    total: Counter[str] = Counter()
    for block in blocks:
        total.update(block["work"])
    return dict(total)


def pairs_of(work: dict[str, int], resumed: bool) -> dict[str, int]:
    """Pairs that went through the model in this run; pairs that were answered by an equal one, `stored` of them by one of an
    earlier run; and how many of the computed ones were computed before the run was interrupted."""
    computed = work.get("computed", 0)
    return {
        "computed": computed,
        "reused": work.get("pairs", 0) - computed,
        "stored": work.get("recalled", 0),
        "resumed": work.get("resumed", 0) if resumed else 0,
    }


def add_selected(counts: dict[str, dict[str, Any]], selected: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The same counts with selected rows."""
    return {source: {**one, "selected": selected.get(source, 0)} for source, one in counts.items()}


def require_few_rejected(
    counts: dict[str, dict[str, Any]], limit: float, stage: str, first: Sequence[str] = ()
) -> None:
    """Raise RunFailed where more than this fraction of all rows read was rejected: something is wrong with the whole corpus, or
    with the scorer, and not with rows."""
    total = in_all(counts)
    rejected = sum(total["rejected"].values())
    if rejected > limit * total["read"]:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(total["rejected"].items()))
        raise RunFailed(
            stage,
            f"{rejected:,} of {total['read']:,} rows rejected ({reasons}), more than max_rejected_fraction: {limit:g} allows; "
            f"if that is as it should be, set it higher{_told(first)}",
        )


def _told(first: Sequence[str]) -> str:
    return f"; the first: {'; '.join(first)}" if first else ""


def worth_another_try(counts: dict[str, Any]) -> bool:
    """Whether rows were rejected for what may have been a fault of a machine: a run from scratch would try them again."""
    return bool({"reader_died", "scorer_died", "scorer_failed", "not_finite"} & counts["rejected"].keys())


def base_of(config: Config) -> dict[str, Any]:
    """The settings that every later selection from a run starts from."""
    return {"score": config.score.model_dump(), "select": config.select.model_dump(), "seed": config.seed}


def require_rows(counts: dict[str, dict[str, Any]], first: Sequence[str] = ()) -> None:
    """Raise RunFailed where no row is left: all were rejected, the first ones as given, or there was none."""
    total = in_all(counts)
    if total["read"] == sum(total["rejected"].values()) + total["duplicates"]:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(total["rejected"].items()))
        found = f"none can be scored ({reasons})" if reasons else "the input has no rows"
        raise RunFailed("read", f"{total['read']} rows read, {found}{_told(first)}")
