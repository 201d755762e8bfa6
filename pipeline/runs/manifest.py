"""The manifest of a run: what was asked, what came of it, and the parts that it left; JSON that checks itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.reading.input_files import InputFile
from pipeline.storage.files import digest_of
from pipeline.storage.records import NearDuplicatesAccount, Overlap, Part, Retrieval, Verdict, WrittenInputs

_NEEDED = ("run", "config", "scorer", "counts", "pairs", "files", "columns", "instructions", "pool", "base")


@dataclass(frozen=True)
class Counts:
    """Rows, of one source or of all: read = rejected (by reason) + duplicates + near_duplicates + scored. Of those that are
    scored, `unscored` have no score, and a bounded selection left `bounded` of these. `special_text` of the rows that were not
    rejected when they were read hold text that looks like a special token; the output of `special_outputs` is nothing else."""

    read: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    scored: int = 0
    unscored: int = 0
    bounded: int = 0
    selected: int = 0
    special_text: int = 0
    near_duplicates: int = 0
    special_outputs: int = 0

    @property
    def lost(self) -> int:
        """Rejected rows, whatever the reason."""
        return sum(self.rejected.values())


@dataclass(frozen=True)
class AllCounts(Counts):
    """Rows of all sources, and of each."""

    sources: dict[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """Pairs that went through the model in this run, `resumed` of them before it was interrupted; pairs that were answered by
    an equal one, `stored` of them by one of an earlier run."""

    computed: int
    reused: int
    stored: int = 0
    resumed: int = 0


@dataclass(frozen=True)
class Tokens:
    """Of computed pairs: the tokens of their sequences, and those that went through the model for them."""

    in_pairs: int = 0
    forwarded: int = 0


@dataclass(frozen=True)
class Budget:
    """What was asked for, what the selection uses of it, and what all rows cost, in a unit."""

    asked: int
    unit: str
    used: int
    corpus: int


@dataclass(frozen=True)
class ScorerName:
    """What likelihoods follow from; `loaded` processes loaded its model in this run."""

    model: str
    fingerprint: str
    dtype: str
    template_text: str
    template_hash: str
    loaded: int = 0


@dataclass(frozen=True)
class GeneratorName:
    """What written alternatives follow from. `revision` is the commit or the digest of a model's files, or what a server says
    is behind its name; `settings` are those that decide a text."""

    model: str
    engine: str
    revision: str
    fingerprint: str
    prompt_text: str
    prompt_hash: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class AlternativesAccount(WrittenInputs):
    """Written alternatives, and rows: those without an input, which have retrieved ones, and those with fewer than k."""

    without_input: int = 0
    short: int = 0

    def recalled(self) -> AlternativesAccount:
        """The account of a run that takes all of it from the one that this is of."""
        return replace(self, stored=self.stored + self.computed, computed=0, resumed=0, tokens=0)


@dataclass(frozen=True)
class ExcludedName:
    """A file of texts that no row may share words with."""

    path: str
    ngram: int
    digest: str
    texts: int


@dataclass(frozen=True)
class ReportFile:
    """The page of a run: its file in the run's folder, bytes and digest; `problem` says why it lacks the figures of rows."""

    path: str
    bytes: int
    digest: str
    problem: str | None = None


@dataclass(frozen=True)
class RowChanges:
    """Rows since an earlier run: new ones, ones that are gone, ones that are still there, `moved` of these to another rank."""

    entered: int
    left: int
    stayed: int
    moved: int


@dataclass(frozen=True)
class Manifest:
    """What a published run says of itself; older releases may not have said everything."""

    run: str
    config: dict[str, Any]
    versions: dict[str, str]
    scorer: ScorerName
    counts: AllCounts
    pairs: Pairs
    files: dict[str, list[Part]]  # by kind, with paths in the run's folder
    columns: list[str]  # names of the rows' own columns
    instructions: int  # distinct ones
    pool: int  # those that were offered as alternatives
    base: dict[str, Any]  # what every later selection from this run starts from
    tokens: Tokens = field(default_factory=Tokens)
    budget: Budget | None = None
    eligible: int = 0
    scores: dict[str, Any] = field(default_factory=dict)
    overlap: Overlap | None = None
    verdict: Verdict | None = None
    seed: int = 0
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    inputs: list[InputFile] = field(default_factory=list)
    content: str | None = None  # a digest of all that scored rows follow from
    embedder: str | None = None  # its fingerprint
    retrieval: Retrieval | None = None  # how alternatives were looked for
    generator: GeneratorName | None = None  # of alternatives that were written
    alternatives: AlternativesAccount | None = None
    near_duplicates: NearDuplicatesAccount | None = None  # where they were looked for
    excluded: list[ExcludedName] | None = None  # where there were any
    damaged: list[str] = field(default_factory=list)  # parts of the store that were found so
    parent: str | None = None  # the run that a selection was made from
    since: str | None = None  # the run that a refresh compares with
    changes: dict[str, RowChanges] | None = None  # of all scored rows and of the selected ones
    report: ReportFile | None = None
    special: list[str] | None = None  # places of the first rows whose output is special tokens alone
    label: str | None = None  # of the user's own, for people
    key: str | None = None  # by which the same request is known again without Ray


def to_plain(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON has it, without what does not apply."""
    plain = asdict(manifest)
    optional = {
        "parent",
        "since",
        "generator",
        "alternatives",
        "near_duplicates",
        "excluded",
        "verdict",
        "report",
        "label",
        "special",
        "key",
    } | ({"changes"} if manifest.since is None else set())
    return {key: value for key, value in plain.items() if value is not None or key not in optional}


def sealed(manifest: Manifest) -> str:
    """A manifest as the text of its file, with a digest of all that it says."""
    plain = json.loads(json.dumps(to_plain(manifest)))  # as a reader will find it
    return json.dumps({**plain, "digest": manifest_digest(plain)}, indent=2, ensure_ascii=False) + "\n"


def opened(data: bytes) -> Manifest:
    """The manifest of a file; raises ValueError that says why it is none, or not as it was written."""
    try:
        plain = json.loads(data)
    except RecursionError as error:
        raise ValueError("cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not isinstance(plain, dict):
        raise ValueError(f"cannot be read: found {type(plain).__name__} instead of an object")
    missing = [key for key in _NEEDED if key not in plain]
    if missing:
        raise ValueError(f"is no manifest of a finished run: it has no {', '.join(missing)}")
    if plain.get("digest") != manifest_digest(plain):
        raise ValueError("is not as it was published: its digest differs")
    try:
        return TypeAdapter(Manifest).validate_python(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"does not hold what a finished run writes: {place}: {first['msg']}") from error


def manifest_digest(plain: dict[str, Any]) -> str:
    """The digest of all that a manifest says."""
    content = {key: value for key, value in plain.items() if key != "digest"}
    return digest_of(json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
