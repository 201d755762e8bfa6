"""What stages say of their work: records of a few hundred bytes a part, which are all that the driver sees of the data.

They travel between tasks and the driver as JSON, and `to_json` and `from_json` are the only ways there and back. Those that
there is one of for each block have slots: the driver keeps them all.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, TypeVar, cast

import pyarrow as pa
from pydantic import TypeAdapter

from operators.scoring.score_rows import Work

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file that a stage has written: its place, rows, bytes, and the digest of these."""

    path: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A part with the number of its block, or of its place in a published run."""

    block: int
    part: Part


@dataclass(frozen=True)
class AdmittedChunk:
    """What reading made of a chunk of a file: parts of ADMITTED and REJECTED rows, and why rows were rejected."""

    source: str
    file: str
    read: int
    admitted: list[Part]
    rejected: list[Part]
    reasons: dict[str, int]
    columns: list[str]  # names of the rows' own columns
    numbers: list[str]  # those of them in which some row holds a number
    first_rejected: list[str]  # the first rejected rows, for people
    special_text: int = 0  # admitted rows with text that looks like a special token
    special_outputs: int = 0  # those of them whose output is nothing else
    first_special: list[str] = field(default_factory=list)  # the places of the first of these


@dataclass(frozen=True)
class CandidatePart:
    """A part of CANDIDATE_PAIRS, and the rows of the largest bucket in which not all of them were paired."""

    part: Part
    crowded: int


@dataclass(frozen=True)
class SievedPart:
    """What is left of an admitted part, by its number, once near duplicates are gone, and the DROPPED rows; None: no row."""

    number: int
    kept: Part | None
    dropped: Part | None


@dataclass(frozen=True)
class Overlap:
    """Names of scores, rows that each selects, and the Jaccard index of each two: rows in both over rows in either; null where
    both are empty."""

    scores: list[str]
    rows: list[int]
    jaccard: list[list[float | None]]


@dataclass(frozen=True)
class Verdict:
    """Of `rows` with a rank, the share whose own instruction explains the output `best`, with its 95% interval, and what chance
    would give. From a sample of so many rows: the deviations of `tss_nce` and of the quality term in `tss_pp`, and the rank
    correlation of scores from `halves` of the alternatives, as it would be of all. Where the run selects by a `score` over
    alternatives: its rank correlations with other scores, the one of them that selects most `alike`, with the Jaccard index and
    what chance gives, and the share of a draw that another seed keeps.
    """

    rows: int
    best: float
    low: float
    high: float
    chance: float
    score: str | None = None
    sampled: int = 0
    spread_nce: float | None = None
    spread_quality: float | None = None
    correlations: dict[str, float] = field(default_factory=dict)
    halves: float | None = None
    kept: float | None = None
    alike: str | None = None
    shared: float | None = None
    shared_by_chance: float | None = None


@dataclass(frozen=True)
class NearDuplicatesAccount:
    """Pairs of rows that were compared, those of them that are near duplicates, and the rows of the largest bucket in which not
    all were paired."""

    compared: int = 0
    similar: int = 0
    crowded: int = 0


@dataclass(frozen=True)
class NearDuplicates:
    """The published parts of near duplicates; by source, how many there are, and how many rows are exact copies of one."""

    parts: list[Part]
    rows: dict[str, int]
    copies: dict[str, int]


@dataclass(frozen=True)
class Retrieval:
    """How alternatives were looked for: "exact", among all instructions, or in "lists", `probes` of so many. `recall` is the
    share of the k nearest allowed ones that the lists gave, measured on a sample of queries, with the ends of its 95%
    interval."""

    kind: str
    lists: int | None = None
    probes: int | None = None
    recall: float | None = None
    low: float | None = None
    high: float | None = None
    sample: int | None = None


@dataclass(frozen=True)
class WrittenInputs:
    """Distinct inputs for which instructions were to be written: those that the store had, those that this run asked for (and
    `resumed` of them before it was interrupted), those that the generator took no prompt of, and those that gave too few
    instructions; the distinct instructions of all; the tokens that were written now."""

    requested: int
    stored: int
    computed: int
    resumed: int
    refused: int
    too_few: int
    distinct: int
    tokens: int


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block of PLACED rows, and its duplicates by source."""

    block: int
    part: Part
    duplicates: dict[str, int]


@dataclass(frozen=True, slots=True)
class SourceScores:
    """Of one source: SCORED rows, those without a score, and those of these that a bounded selection left."""

    scored: int
    unscored: int
    bounded: int


@dataclass(frozen=True, slots=True)
class ScoredBlock:
    """What one round of scoring made of a block: the SCORED part holds the rows of all rounds, the rest is of this one."""

    block: int
    scored: Part
    sources: dict[str, SourceScores]
    rejected: list[Part]
    reasons: dict[str, dict[str, int]]  # by source
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class Block:
    """A block on its way through rounds of scoring: what was placed in it, and what all rounds so far have made of it."""

    block: int
    placed: Part
    offers: Part  # what retrieval knows of its queries
    duplicates: dict[str, int]
    recalled: Part | None = None  # sums of its pairs that earlier runs have stored
    scored: Part | None = None
    sources: dict[str, SourceScores] = field(default_factory=dict)
    rejected: list[Part] = field(default_factory=list)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    work: Work = field(default_factory=Work)


def to_json(value: Any) -> str:
    """A record, or a value that JSON knows, as JSON."""
    return json.dumps(value, default=asdict)


@cache
def _reader(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # type: ignore[arg-type]


def from_json(kind: type[R], text: str | bytes) -> R:
    """The record of a kind; raises ValueError where the text holds no such record."""
    record: R = _reader(cast(Hashable, kind)).validate_json(text)
    return record


def item_table(records: Iterable[Any]) -> pa.Table:
    """Records as the batch that a stage is given."""
    return pa.table({"item": pa.array([to_json(record) for record in records], pa.string())})


def record_table(records: Iterable[Any]) -> pa.Table:
    """Records as the output batch of a stage."""
    return pa.table({"record": pa.array([to_json(record) for record in records], pa.string())})


def records_of(kind: type[R], batch: pa.Table, column: str = "item") -> Iterator[R]:
    """The records of a batch that a stage is given."""
    return (from_json(kind, text) for text in batch[column].to_pylist())
