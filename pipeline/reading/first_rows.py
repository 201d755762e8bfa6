"""A bounded look at the inputs, before any work: the first rows of each file, read and told by the run's own rules."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from operators.error_text import first_line
from operators.layouts import listed
from operators.normalise import Example, RejectedTurn, normalise, normalise_each
from operators.read_layout import layout_of
from operators.rejections import Rejection
from pipeline.errors import BadRequest
from pipeline.reading.chunks import Chunk
from pipeline.reading.readers import read_chunk
from pipeline.reading.rows import Unread

FIRST_ROWS, FIRST_BYTES = 100, 4 << 20  # of a file
FILES = 32  # of an input, spread over all of them
# Reasons that say of all rows of a file that it is laid out otherwise, and of a row that it is one of a kind.
OF_THE_LAYOUT = {"malformed_json", "not_an_object", "missing_field", "wrong_type", "no_user_turn", "no_assistant_turn"}
OWN_COLUMNS = "columns of its own"  # what a layout is called that the configuration names


@dataclass
class FirstRows:
    """What the first rows of a file hold: `read` rows of `bytes` (`whole`: it has no more), examples, and why others are none.
    `columns` are the names of records, in the order in which they were seen; `unreadable` says why nothing more was read."""

    chunk: Chunk
    read: int = 0
    bytes: int = 0
    whole: bool = False
    unreadable: str = ""
    layouts: Counter[str] = field(default_factory=Counter)
    columns: dict[str, None] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    rejections: list[tuple[int, Rejection]] = field(default_factory=list)  # with the line

    @property
    def laid_out_otherwise(self) -> bool:
        """Whether there are rows, none of them can be read, and for most of them that is due to how the file is laid out: some
        may be broken as well."""
        if not self.read or self.examples:
            return False
        of_layout = sum(rejection.reason in OF_THE_LAYOUT for _, rejection in self.rejections)
        return 2 * of_layout > len(self.rejections)

    @property
    def typical(self) -> tuple[int, Rejection]:
        """Line and rejection of the first row that has the commonest reason."""
        counted = Counter(rejection.reason for _, rejection in self.rejections)
        ((commonest, _),) = counted.most_common(1)
        return next((line, rejection) for line, rejection in self.rejections if rejection.reason == commonest)


def first_rows(chunks: list[Chunk], rows: int = FIRST_ROWS) -> list[FirstRows]:
    """The first rows of the files that chunks are cut from: of each input's first FILES, or of so many that are spread."""
    files: dict[int, dict[int, list[Chunk]]] = {}
    for chunk in chunks:
        files.setdefault(chunk.input_index, {}).setdefault(chunk.file_index, []).append(chunk)
    looks = []
    for of_input in files.values():
        several = list(of_input.values())
        step = max(1.0, len(several) / FILES)
        looks += [_look(several[int(place * step)], rows) for place in range(min(len(several), FILES))]
    return looks


def _look(pieces: list[Chunk], rows: int) -> FirstRows:
    look = FirstRows(pieces[0])
    try:
        for unread in read_chunk(pieces[0]):
            if look.read == rows or look.bytes > FIRST_BYTES:
                return look
            look.read += 1
            look.bytes += unread.size
            _take(look, unread)
        look.whole = len(pieces) == 1
    except (OSError, EOFError, pa.ArrowException) as error:
        look.unreadable = first_line(error)
    return look


def _take(look: FirstRows, unread: Unread) -> None:
    """Tell one row, which is an example, several or none."""
    try:
        row = unread.read()
        if row.problem is not None:
            raise row.problem
        if isinstance(row.record, Mapping):
            _note(look, row.record)
        if look.chunk.turns == "last":
            look.examples.append(normalise(row.record, look.chunk.columns))
            return
        for example in normalise_each(row.record, look.chunk.columns):
            if isinstance(example, RejectedTurn):
                look.rejections.append((unread.line, example.rejection))
            else:
                look.examples.append(example)
    except Rejection as rejection:
        look.rejections.append((unread.line, rejection))


def _note(look: FirstRows, record: Mapping[Any, Any]) -> None:
    look.columns.update(dict.fromkeys(str(name)[:200] for name in record))
    layout = None if look.chunk.columns else layout_of(record)
    look.layouts[OWN_COLUMNS if look.chunk.columns else layout.name if layout else "none that is known"] += 1


def require_layouts(chunks: list[Chunk], most_rejected: float) -> None:
    """Raise BadRequest where none of the first rows of a file can be read under its columns or layout, so that a run would end
    with this. A file of few rows among others may be lost, as long as so many may be."""
    looks = first_rows(chunks)
    over = [look for look in looks if look.laid_out_otherwise and look.read > most_rejected * FIRST_ROWS]
    files = {(chunk.input_index, chunk.file_index) for chunk in chunks}
    if not over and len(looks) == len(files) and all(look.laid_out_otherwise and look.whole for look in looks):
        over = looks  # no row is left at all
    if over:
        raise BadRequest("\n".join(refusal(look) for look in over[:3]))


def refusal(look: FirstRows) -> str:
    """What is wrong with the first rows of a file, none of which can be used, with the columns that there are."""
    if not look.rejections:
        why = look.unreadable or "it has no rows; accepted: a file that has some, or leave this one out"
        return f"input.{look.chunk.input_index}: {look.chunk.uri}: {why}"
    line, rejection = look.typical
    rows = (
        "its only row cannot be used"
        if look.whole and look.read == 1
        else f"none of its {'' if look.whole else 'first '}{look.read:,} rows can be used"
    )
    key = f"input.{look.chunk.input_index}"
    columns = look.chunk.columns or {}
    missing = {name: column for name, column in columns.items() if column not in look.columns and name in _OF_ROWS}
    if not missing:
        return (
            f"{key}: {look.chunk.uri}: {rows}: for example line {line}: {rejection.reason}: "
            f"{rejection.detail[:900]}{_HOW.get(rejection.reason, '').format(key=key)}"
        )
    hints = []
    for name, column in missing.items():
        close = difflib.get_close_matches(column, look.columns, n=1)
        hints.append(f"{column!r} ({name})" + (f", did you mean {close[0]!r}?" if close else ""))
    return (
        f"{key}.columns: {look.chunk.uri}: {rows}: no column {'; '.join(hints)}"
        f"{'' if hints[-1].endswith('?') else ';'} accepted: columns that the rows have: {listed(look.columns)}"
    )


def template_for(looks: list[FirstRows]) -> str:
    """The scorer's own chat template where most rows are conversations, else that of single instructions."""
    examples = [example for look in looks for example in look.examples]
    return "chat" if 2 * sum(example.messages is not None for example in examples) > len(examples) else "alpaca"


_ONE_DOCUMENT = "; accepted: one object a line, or the file under a name that ends in .json where it is one document"
_HOW = {
    "missing_field": ", or with --set '{key}.columns={{instruction: COLUMN, output: COLUMN}}'",
    "malformed_json": _ONE_DOCUMENT,
    "not_an_object": _ONE_DOCUMENT,
}
_OF_ROWS = ("instruction", "input", "output", "messages", "system", "history")  # columns of rows, and no keys of turns
