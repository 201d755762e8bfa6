"""The account of a run: rows per source and in all, pairs, versions. It adds up or nothing is published."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, reduce
from operator import add
from typing import Any

from operators.rejections import ASKED_FOR, PASSING
from operators.scoring.score_rows import Work
from pipeline.config import Config
from pipeline.config_select import Select
from pipeline.errors import RunFailed
from pipeline.runs.manifest import AllCounts, Counts, Pairs
from pipeline.storage.records import AdmittedChunk, Block, NearDuplicates

SMALL_FILE = 100  # rows; what a smaller file may have rejected is counted as if it had so many
SHOWN_FILES = SHOWN_REJECTED = 3
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
    return {"python": platform.python_version(), **{name: _installed(name) for name in _PACKAGES}}


@lru_cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def admitted_counts(chunks: list[AdmittedChunk]) -> dict[str, Counts]:
    """By source, rows read and rejected, and those admitted with text that looks like a special token."""
    counts: dict[str, Counts] = {}
    for chunk in chunks:
        before = counts.get(chunk.source, Counts())
        rejected = dict(Counter(before.rejected) + Counter(chunk.reasons))
        counts[chunk.source] = replace(
            before,
            read=before.read + chunk.read,
            rejected=rejected,
            special_text=before.special_text + chunk.special_text,
            special_outputs=before.special_outputs + chunk.special_outputs,
        )
    return counts


def add_near_duplicates(counts: dict[str, Counts], near: NearDuplicates) -> dict[str, Counts]:
    """The same counts with near duplicates, and copies of these as duplicates."""
    return {
        source: replace(
            before,
            near_duplicates=near.rows.get(source, 0),
            duplicates=before.duplicates + near.copies.get(source, 0),
        )
        for source, before in counts.items()
    }


def add_scored(counts: dict[str, Counts], blocks: list[Block]) -> dict[str, Counts]:
    """The same counts with duplicates, scored and unscored rows, and those rejected while scoring; raises RunFailed where a
    row has been lost."""
    sums = {source: Counter({"duplicates": before.duplicates}) for source, before in counts.items()}
    rejected = {source: Counter(before.rejected) for source, before in counts.items()}
    for block in blocks:
        for source, scores in block.sources.items():
            sums[source].update(asdict(scores))
        for source, number in block.duplicates.items():
            sums[source]["duplicates"] += number
        for source, reasons in block.reasons.items():
            rejected[source].update(reasons)
    result = {
        source: replace(before, rejected=dict(rejected[source]), **sums[source]) for source, before in counts.items()
    }
    for source, rows in result.items():
        accounted = rows.lost + rows.duplicates + rows.near_duplicates + rows.scored
        if rows.read != accounted:
            raise RunFailed(
                "accounts",
                f"source {source!r}: {rows.read:,} rows read, {accounted:,} accounted for; this is a fault of tss: "
                "please report it",
            )
    return result


def add_selected(counts: dict[str, Counts], selected: dict[str, int]) -> dict[str, Counts]:
    """The same counts with selected rows."""
    return {source: replace(rows, selected=selected.get(source, 0)) for source, rows in counts.items()}


def order_in_words(config: Mapping[str, Any]) -> str:
    """How rows were ordered for the selection, by the configuration in a manifest."""
    select = config["select"]
    drawn_at = Select.model_construct(**select).drawn_at if "temperature" in select else 0.0  # early releases had none
    return f"drawn at temperature {drawn_at:g}" if drawn_at else "ranked"


def in_all(counts: dict[str, Counts]) -> AllCounts:
    """Sums over sources, and the sources."""
    sums: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for rows in counts.values():
        rejected.update(rows.rejected)
        sums.update({name: value for name, value in vars(rows).items() if name != "rejected"})
    return AllCounts(**sums, rejected=dict(rejected), sources=counts)


def work_of(blocks: list[Block]) -> Work:
    """What scoring cost in all."""
    return reduce(add, (block.work for block in blocks), Work())


def pairs_of(work: Work, resumed: bool) -> Pairs:
    """The pairs of a run, which may have been resumed."""
    return Pairs(work.computed, work.pairs - work.computed, work.recalled, work.resumed if resumed else 0)


def first_special(chunks: list[AdmittedChunk]) -> list[str]:
    """Places of the first rows whose output is special tokens alone."""
    return [place for chunk in chunks for place in chunk.first_special][:SHOWN_REJECTED]


def require_admitted(counts: dict[str, Counts], chunks: list[AdmittedChunk], limit: float) -> None:
    """Raise RunFailed where no row is left after reading, or more than a fraction of all or of a file's were rejected."""
    first = [row for chunk in chunks for row in chunk.first_rejected][:SHOWN_REJECTED]
    require_rows(counts, first)
    require_few_rejected(counts, limit, "read", first)
    require_few_rejected_in_files(chunks, limit)


def require_few_rejected(counts: dict[str, Counts], limit: float, stage: str, first: Sequence[str] = ()) -> None:
    """Raise RunFailed where more than this fraction of all rows read was rejected, for reasons that nobody asked for: something
    is wrong with the whole corpus, or with the scorer, and not with rows."""
    total = in_all({source: replace(rows, rejected=_unasked(rows.rejected)) for source, rows in counts.items()})
    if total.lost > limit * total.read:
        raise RunFailed(
            stage,
            f"{total.lost:,} of {total.read:,} rows rejected ({by_reason(total)}), more than max_rejected_fraction: {limit:g} "
            f"allows; {_remedy(total.rejected)}if the rows are as they should be, set it higher{_named(first)}",
        )


def _unasked(rejected: Mapping[str, int]) -> dict[str, int]:
    """Rejected rows by reason, without the reasons that were asked for."""
    return {reason: number for reason, number in rejected.items() if reason not in ASKED_FOR}


_DEATHS = "their process ended while it worked on them alone, as it does where there is too little memory; "
_REMEDIES = {
    "scorer_died": _DEATHS,
    "reader_died": _DEATHS,
    "scorer_failed": "where memory ran out, a lower `scorer.max_length` or `scorer.batch_tokens` helps; ",
    "not_finite": "`scorer.dtype: float32` may help, or that of a server; ",
    "invalid_utf8": "write the file as UTF-8; ",
    "template_failed": "mend `scorer.template`, or take another one; ",
    "wrong_type": "`columns` of an input says which columns hold text or turns; ",
    "too_long": "`scorer.max_length` and `scorer.too_long: truncate_input` decide what is too long; ",
    "missing_field": "`columns` of an input says which columns are instruction, input and output; ",
}


def _remedy(rejected: Mapping[str, int]) -> str:
    """What can be done about the reason that most rows were rejected for."""
    return _REMEDIES.get(max(rejected, key=lambda reason: rejected[reason], default=""), "")


def require_few_rejected_in_files(chunks: list[AdmittedChunk], limit: float) -> None:
    """Raise RunFailed where more than this fraction of the rows of one file was rejected: it is not what it was taken for, and
    among the rows of others nobody would see that. A file of fewer than SMALL_FILE rows counts as one of so many, so that a
    bad row in a file of three ends no run."""
    read: Counter[str] = Counter()
    rejected: dict[str, Counter[str]] = {}
    first: dict[str, list[str]] = {}
    for chunk in chunks:
        read[chunk.file] += chunk.read
        rejected.setdefault(chunk.file, Counter()).update(_unasked(chunk.reasons))
        first.setdefault(chunk.file, []).extend(chunk.first_rejected)
    over = [file for file, reasons in rejected.items() if reasons.total() > limit * max(read[file], SMALL_FILE)]
    if not over:
        return
    shown = "; ".join(
        f"{file}: {rejected[file].total():,} of {read[file]:,} rows rejected ({_in_words(rejected[file])})"
        for file in over[:SHOWN_FILES]
    )
    more = f"; and {len(over) - SHOWN_FILES:,} more such files" if len(over) > SHOWN_FILES else ""
    raise RunFailed(
        "read",
        f"{shown}{more}: more than max_rejected_fraction: {limit:g} allows of the rows of one file; "
        f"{_remedy(rejected[over[0]])}if the rows are as they should be, set it higher, or leave the file out"
        f"{_named(first[over[0]][:SHOWN_FILES])}",
    )


def require_rows(counts: dict[str, Counts], first: Sequence[str] = ()) -> None:
    """Raise RunFailed where no row is left: all were rejected, the first ones as given, or there was none."""
    total = in_all(counts)
    if total.read == total.lost + total.duplicates + total.near_duplicates:
        why = f"none can be scored ({by_reason(total)})" if total.rejected else "the input has no rows; give it some"
        remedy = _remedy(_unasked(total.rejected)).removesuffix("; ")
        raise RunFailed("read", f"{total.read:,} rows read, {why}{f'; {remedy}' if remedy else ''}{_named(first)}")


def by_reason(counts: Counts) -> str:
    """Rejected rows by reason, in words."""
    return _in_words(counts.rejected)


def _in_words(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(rejected.items()))


def _named(first: Sequence[str]) -> str:
    return f"; the first: {'; '.join(first)}" if first else ""


def worth_another_try(counts: Counts) -> bool:
    """Whether rows were rejected for what may have been a fault of a machine."""
    return bool(PASSING & counts.rejected.keys())


def base_of(config: Config) -> dict[str, Any]:
    """The settings that every later selection from a run starts from."""
    return {"score": config.score.model_dump(), "select": config.select.model_dump(), "seed": config.seed}
