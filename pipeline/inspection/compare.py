"""Two published runs beside each other: how alike their scores rank, what their selections share, which rows moved, and what
was set otherwise. Needs neither Ray nor a model; about 150 bytes of memory for each row of the larger run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from operators.scoring.fitness import spearman
from operators.selection import filter
from pipeline.config import WHERE_AND_HOW, Config
from pipeline.errors import BadRequest
from pipeline.inspection.common_rows import Common, Rows, common_rows, names_of, places_in_ranking
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest

VERSION = 1  # of the keys of --json: counted up when one changes its meaning
SCORES = (
    "tss_pp",
    "tss_nce",
    "tss",
    "rank",
    "loglik_mean",
    "loglik_empty_mean",
    "ppl",
    "ifd",
    "ifd_loss",
    "length",
    "weight",
)
BY = tuple(name for name in filter.SCORE_CHOICES if name not in ("line", "turn", "cluster", "random"))
_CHARS = 300  # of a text of a row that moved
_NO_MATTER = {*WHERE_AND_HOW, "strict"}  # keys from which neither scores nor selections follow


@dataclass(frozen=True)
class Side:
    """One of the two runs: where it lies, its name, its scorer, its rows and the tokens of those that it selected."""

    path: str
    run: str
    model: str
    dtype: str
    template: str
    scored: int
    selected: int
    selected_tokens: int


@dataclass(frozen=True)
class Agreement:
    """How alike a score ranks the `rows` that have it in both runs: Spearman's correlation; None where it does not vary."""

    score: str
    rows: int
    spearman: float | None


@dataclass(frozen=True)
class Share:
    """Rows, and their tokens (of prompt and output) as each run counts them, which differ where tokenizers or templates do; 0
    on a side that has not selected them."""

    rows: int
    first_tokens: int
    second_tokens: int


@dataclass(frozen=True)
class Selections:
    """What two selections share: rows in both over rows in either (None where both are empty); rows in both, in the second
    alone, and in the first alone; `unknown` of the last two are rows that the other run has not scored at all."""

    jaccard: float | None
    kept: Share
    entered: Share
    left: Share
    unknown: int


@dataclass(frozen=True)
class MovedRow:
    """A row with its places (from 0, highest score first, among the rows that have the score in both runs) and scores in the
    first and the second run, and whether each has selected it. Texts are cut."""

    id: str
    places: tuple[int, int]
    scores: tuple[float, float]
    selected: tuple[bool, bool]
    instruction: str
    output: str


@dataclass(frozen=True)
class Setting:
    """What the runs say differently: a key of the configuration, the scorer, a version, an input by its path; None: nothing."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other. `common` rows are in both; of `ranked` of them both have the score `by`, by which `risen` and
    `fallen` rows have moved most."""

    first: Side
    second: Side
    common: int
    agreements: list[Agreement]
    selections: Selections
    by: str
    ranked: int
    risen: list[MovedRow]
    fallen: list[MovedRow]
    settings: list[Setting]

    def as_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"version": VERSION, **asdict(self)}

    def _repr_html_(self) -> str:
        from pipeline.inspection.compare_words import section

        return section(self)


@dataclass(frozen=True)
class _Run:
    path: str
    manifest: Manifest
    scored: Rows
    selected: Rows

    @classmethod
    def at(cls, path: str) -> _Run:
        _, run = open_run.find_run(path)
        manifest = open_run.read_manifest(run)
        return cls(run, manifest, Rows(run, manifest, "scored"), Rows(run, manifest, "selected"))

    def side(self) -> Side:
        scorer = self.manifest.scorer
        return Side(
            path=self.path,
            run=self.manifest.run,
            model=scorer.model,
            dtype=scorer.dtype,
            template=str(self.manifest.config.get("scorer", {}).get("template")),
            scored=len(self.scored),
            selected=len(self.selected),
            selected_tokens=int(self.selected.tokens().sum()),
        )


def compare(first: str, second: str, *, by: str = "tss_pp", shown: int = 5) -> Comparison:
    """Compare two published runs, each an output folder, a run in one, or a URL of either; `by` is the score by whose ranking
    rows have moved, `shown` how many of them are given each way. Raises BadRequest, DamagedInput."""
    if by not in BY:
        raise BadRequest(f"--by: no score {by!r}; accepted: {', '.join(BY)}")
    some, other = _Run.at(first), _Run.at(second)
    common = common_rows(some.scored.ids, other.scored.ids)
    ranked, moved = _moved(some, other, common, by, shown)
    return Comparison(
        first=some.side(),
        second=other.side(),
        common=len(common),
        agreements=[_agreement(some, other, common, name) for name in SCORES],
        selections=_selections(some, other),
        by=by,
        ranked=ranked,
        risen=[row for row in moved if row.places[1] < row.places[0]],
        fallen=[row for row in moved if row.places[1] > row.places[0]],
        settings=differing_settings(some.manifest, other.manifest),
    )


def _both(some: _Run, other: _Run, common: Common, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places among the common rows that have a score in both runs, the score in the first, in the second)."""
    first, second = some.scored.numbers(name)[common.first], other.scored.numbers(name)[common.second]
    known = np.flatnonzero(~(np.isnan(first) | np.isnan(second)))
    return known, first[known], second[known]


def _agreement(some: _Run, other: _Run, common: Common, name: str) -> Agreement:
    known, first, second = _both(some, other, common, name)
    return Agreement(name, len(known), spearman(first, second))


def _selections(some: _Run, other: _Run) -> Selections:
    first, second = some.selected.tokens(), other.selected.tokens()
    both = common_rows(some.selected.ids, other.selected.ids)
    kept = Share(len(both), int(first[both.first].sum()), int(second[both.second].sum()))
    left = Share(len(first) - len(both), int(first.sum()) - kept.first_tokens, 0)
    entered = Share(len(second) - len(both), 0, int(second.sum()) - kept.second_tokens)
    either = kept.rows + left.rows + entered.rows
    known = len(common_rows(some.selected.ids, other.scored.ids)) + len(
        common_rows(other.selected.ids, some.scored.ids)
    )
    unknown = len(first) + len(second) - known
    return Selections(kept.rows / either if either else None, kept, entered, left, unknown)


def _moved(some: _Run, other: _Run, common: Common, by: str, shown: int) -> tuple[int, list[MovedRow]]:
    """How many rows are ranked in both runs, and those that rose most and fell most, the furthest first."""
    known, first, second = _both(some, other, common, by)
    ids = some.scored.ids[common.first[known]]
    before, after = places_in_ranking(first, ids), places_in_ranking(second, ids)
    change = after - before
    order = np.argsort(change, kind="stable")
    rows = np.r_[order[:shown], order[::-1][:shown]]
    rows = rows[np.r_[change[order[:shown]] < 0, change[order[::-1][:shown]] > 0]]
    chosen = [_are_in(ids[rows], run.selected.ids) for run in (some, other)]
    texts = some.scored.texts(common.first[known[rows]].tolist(), ("instruction", "output"))
    moved = [
        MovedRow(
            id=id,
            places=(int(before[row]), int(after[row])),
            scores=(float(first[row]), float(second[row])),
            selected=(bool(chosen[0][number]), bool(chosen[1][number])),
            **{name: " ".join(text[:_CHARS].split()) for name, text in texts[number].items()},
        )
        for number, (row, id) in enumerate(zip(rows.tolist(), names_of(ids[rows]), strict=True))
    ]
    return len(known), moved


def _are_in(ids: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Bool [N]: whether each of the ids is among others."""
    inside = np.zeros(len(ids), dtype=bool)
    inside[common_rows(ids, among).first] = True
    return inside


def differing_settings(some: Manifest, other: Manifest) -> list[Setting]:
    """What two runs were made with that differs, by key."""
    first, second = _settings(some), _settings(other)
    keys = dict.fromkeys([*first, *second])
    return [Setting(key, first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)]


def _settings(manifest: Manifest) -> dict[str, Any]:
    asked = manifest.config
    with contextlib.suppress(ValidationError):  # of a release with other keys, which are shown as they are
        asked = Config.model_validate(asked).model_dump()  # with the defaults of keys that its release did not have
    config = {key: value for key, value in asked.items() if key not in _NO_MATTER}
    scorer = manifest.scorer
    known = {"dtype": scorer.dtype, "fingerprint": scorer.fingerprint, "template text": scorer.template_hash}
    return {
        **_flat(config),
        **{f"scorer: {name}": value for name, value in known.items()},
        "embedder: fingerprint": manifest.embedder,
        **{f"snapshot: {input.path}": input.digest for input in manifest.inputs},
        **{f"version: {name}": value for name, value in manifest.versions.items()},
    }


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values by their dotted keys."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {key: value}
    return {
        name: leaf
        for inner, below in pairs
        for name, leaf in _flat(below, f"{key}.{inner}" if key else str(inner)).items()
    }
