"""Finds one row of a published run by its id, by the beginning of that, or by the place where it was read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash
from operators.normalise import normalise
from operators.rejections import Rejection
from operators.schema import SCORED, of_earlier_release, with_origins
from pipeline.errors import BadRequest, DamagedInput
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.storage.parts import DamagedPart, read_columns, read_table, read_whole
from pipeline.storage.records import BlockPart

_ID = re.compile(r"[0-9a-f]{1,32}")
_PLACE = re.compile(r"(.+):([0-9]{1,18})")
_ID_CHARACTERS = 32
_SHOWN = 5
_ACCEPTED = (
    "accepted: an id (32 hex digits, column id of scored/), the beginning of one, or FILE:LINE where the row was read"
)


@dataclass(frozen=True)
class FoundRow:
    """A row of a run: its part, its place there, and its columns (SCORED, of one row)."""

    part: BlockPart
    place: int
    columns: pa.Table

    @property
    def id(self) -> str:
        """32 hex digits."""
        return str(self.columns["id"][0])


def find_row(run: str, manifest: Manifest, wanted: str) -> FoundRow:
    """The one scored row that is meant; raises BadRequest that says what is there instead: several rows, a rejected one or a
    near duplicate, or ids that are nearly the same. Raises DamagedInput where its part is not what was published."""
    scored = open_run.parts_of(run, manifest.files["scored"])
    text = wanted.strip()
    id, place = text.lower(), _PLACE.fullmatch(text)
    if _ID.fullmatch(id):
        matches = _matching(scored, "id", lambda table: pc.starts_with(table["id"], id))
        missing = f"no scored row has an id that begins with {id!r}" if len(id) < _ID_CHARACTERS else f"no row {id!r}"
    elif place:
        matches = _matching(scored, "file line", lambda table: _stands_at(table, place[1], int(place[2])))
        missing = f"no scored row was read at {text!r}"
    else:
        raise BadRequest(f"{text[:200]!r}: {_ACCEPTED}")
    if len(matches) == 1:
        return _whole(*matches[0])
    if matches:
        raise BadRequest(f"{text!r}: {_several(matches)}; name one of them")
    if place:
        raise BadRequest(f"{missing}: {_elsewhere(run, manifest, place[1], int(place[2]))}")
    raise BadRequest(f"{missing}: {_gone(run, manifest, id) or _nearest(scored, manifest, id)}")


def _stands_at(table: pa.Table, file: str, line: int) -> pa.ChunkedArray:
    """Whether rows were read at a line of a file that is named by its path, or by the end of it."""
    whole = pc.equal(table["file"], file)
    return pc.and_(pc.or_(whole, pc.ends_with(table["file"], f"/{file.lstrip('./')}")), pc.equal(table["line"], line))


def _matching(parts: list[BlockPart], names: str, holds: Any) -> list[tuple[BlockPart, int]]:
    """(part, place) of the rows for which a condition on some columns holds; a few more than are shown are enough."""
    matches: list[tuple[BlockPart, int]] = []
    for record in parts:
        table = _columns(record, names.split())
        places = np.flatnonzero(pc.fill_null(holds(table), False).to_numpy())
        matches += [(record, int(place)) for place in places[: _SHOWN + 1]]
    return matches


def _columns(record: BlockPart, names: list[str]) -> pa.Table:
    """Columns of a published part."""
    try:
        return read_columns(record.part.path, pa.schema([SCORED.field(name) for name in names]))
    except DamagedPart as damaged:
        raise DamagedInput("explain", str(damaged)) from damaged


def _whole(record: BlockPart, place: int) -> FoundRow:
    """All columns of a row, after a look at every byte of its part."""
    try:
        row = read_whole(record.part).slice(place, 1)
    except DamagedPart as damaged:
        raise DamagedInput("explain", str(damaged)) from damaged
    return FoundRow(record, place, of_earlier_release(with_origins(row), SCORED))


def _several(matches: list[tuple[BlockPart, int]]) -> str:
    """Rows with the beginnings of their instructions."""
    shown = []
    for record, place in matches[:_SHOWN]:
        (row,) = _columns(record, ["id", "instruction"]).slice(place, 1).to_pylist()
        shown.append(f"{row['id']} ({' '.join(row['instruction'][:60].split())!r})")
    more = ", and more" if len(matches) > _SHOWN else ""
    return f"{len(matches) if not more else f'over {_SHOWN}'} rows: {', '.join(shown)}{more}"


def _gone(run: str, manifest: Manifest, id: str) -> str | None:
    """What became of an id that is not among the scored rows."""
    for row in _rows(run, manifest, "near_duplicates"):
        if row["id"].startswith(id):
            return _near(row)
    for row in _rows(run, manifest, "rejected"):
        if any(rejected.startswith(id) for rejected in _ids_of(row["raw"], manifest)):
            return _words_of_rejected(row)
    return None


def _elsewhere(run: str, manifest: Manifest, file: str, line: int) -> str:
    """What became of the row at a line of a file, as far as that is listed."""
    for kind, words in (("near_duplicates", _near), ("rejected", _words_of_rejected)):
        for row in _rows(run, manifest, kind, lambda table: _stands_at(table, file, line)):
            return words(row)
    duplicates = manifest.counts.duplicates
    if duplicates:
        return (
            f"the run has {duplicates:,} duplicates, which are counted and not listed; where the row equals another in "
            "instruction, input and output, that one has its id and stands for it"
        )
    return "no row of the run was read there; the file is named as in the column file, or by the end of its path"


def _rows(run: str, manifest: Manifest, kind: str, holds: Any = None) -> Iterator[dict[str, Any]]:
    """The rows of a kind, a part at a time; those alone for which a condition holds."""
    for record in open_run.parts_of(run, manifest.files.get(kind, [])):
        try:
            table = read_table(record.part.path)
        except DamagedPart as damaged:
            raise DamagedInput("explain", str(damaged)) from damaged
        yield from (table if holds is None else table.filter(pc.fill_null(holds(table), False))).to_pylist()


def _near(row: dict[str, Any]) -> str:
    return (
        f"row {row['id']} ({row['file']}:{row['line']}) is a near duplicate of {row['stayed']}, similarity "
        f"{row['similarity']:.3f}, which stayed in its place"
    )


def _words_of_rejected(row: dict[str, Any]) -> str:
    return f"the row at {row['file']}:{row['line']} was rejected: {row['reason']}, {row['detail']}"


def _ids_of(raw: str, manifest: Manifest) -> Iterator[str]:
    """The ids that a rejected row would have had, as far as its texts can be told."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return
    layouts = [None, *(entry["columns"] for entry in manifest.config.get("input", []) if entry.get("columns"))]
    for columns in layouts:
        try:
            example = normalise(record, columns)
        except Rejection:
            continue
        yield content_hash(example.instruction, example.input, example.output).hex()


def _nearest(scored: list[BlockPart], manifest: Manifest, id: str) -> str:
    """Ids that agree with most of the digits of a mistyped one."""
    given = np.frombuffer(id.encode(), dtype=np.uint8)
    best: list[tuple[int, str]] = []
    for record in scored:
        ids = _columns(record, ["id"])["id"]
        if not len(ids):
            continue
        digits = np.array(ids.to_pylist(), dtype=f"S{_ID_CHARACTERS}").view(np.uint8).reshape(len(ids), -1)
        equal = (digits[:, : len(given)] == given).sum(axis=1)
        for place in np.argsort(-equal, kind="stable")[:3].tolist():
            best.append((-int(equal[place]), ids[place].as_py()))
    # Of random digits one in sixteen agrees.
    near = [known for agreeing, known in sorted(best)[:3] if -agreeing >= max(3, 0.6 * len(id))]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    duplicates = f"{manifest.counts.duplicates:,} duplicates have the ids of the rows that stand for them; "
    return (
        f"{hint}{duplicates if manifest.counts.duplicates else ''}it is not among the rejected rows either; {_ACCEPTED}"
    )
