"""What becomes of the rows of a chunk: parts of admitted and rejected ones, and the chunk's account."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from operators.hashing import content_hash
from operators.normalise import Example, RejectedTurn, normalise, normalise_each, rejected_turn
from operators.prompts.measure import Measured, measure
from operators.prompts.tokenise import Encoder
from operators.rejections import ASKED_FOR, Rejection
from operators.retrieval.instruction_table import instruction_key
from operators.schema import ADMITTED, REJECTED, from_rows
from pipeline.reading.chunks import Chunk
from pipeline.reading.excluded import ExcludedIndex, contaminations
from pipeline.reading.rows import RawRow, Unread
from pipeline.storage.parts import write_part
from pipeline.storage.records import AdmittedChunk, Part

PART_CHARS = 32_000_000  # a part is written when its text is this long, so memory does not grow with a file
COLUMNS_KEPT, COLUMN_CHARS = 1000, 200  # names of the rows' own columns that a run remembers, and how long one may be
SHOWN_REJECTED, SHOWN_CHARS = 3, 300  # rejected rows named where there are too many, and how much is shown of why


class Parts:
    """The growing parts of admitted and rejected rows; one is written when its text is long."""

    def __init__(self, work: str):
        self._work = work
        self._rows: dict[str, list[dict[str, Any]]] = {"admitted": [], "rejected": []}
        self._chars = 0
        self.admitted: list[Part] = []
        self.rejected: list[Part] = []

    def add(self, kind: str, row: dict[str, Any], chars: int) -> None:
        """Take a row of so much text."""
        self._rows[kind].append(row)
        self._chars += chars

    def flush_when_long(self) -> None:
        """Write what is there where it is much."""
        if self._chars > PART_CHARS:
            self.flush()

    def flush(self) -> None:
        """Write what is there."""
        for kind, schema, parts in (("admitted", ADMITTED, self.admitted), ("rejected", REJECTED, self.rejected)):
            if rows := self._rows[kind]:
                parts.append(write_part(f"{self._work}/{kind}", from_rows(rows, schema), schema))
                self._rows[kind] = []
        self._chars = 0


class ChunkRows:
    """The counts of one chunk, whose rows go to parts."""

    def __init__(self, parts: Parts, chunk: Chunk, encoder: Encoder, too_long: str, excluded: Sequence[ExcludedIndex]):
        self._parts, self._chunk, self._encoder, self._too_long = parts, chunk, encoder, too_long
        self._excluded = excluded
        self._read = 0
        self._reasons: Counter[str] = Counter()
        self._special_text = self._special_outputs = 0
        self._first_special: list[str] = []  # places of rows whose output is special tokens alone
        self._columns: set[str] = set()
        self._numbers: set[str] = set()  # of these, columns in which some row holds a number
        self._first_rejected: list[str] = []

    def take(self, rows: list[Unread]) -> None:
        """Look into rows, and admit or reject each."""
        read: list[RawRow] = []
        chars = 0
        for unread in rows:
            read.append(row := unread.read())
            chars += len(row.raw)
            if chars > PART_CHARS:
                self.take_read(read)
                read, chars = [], 0
        self.take_read(read)

    def take_read(self, rows: list[RawRow]) -> None:
        """Admit or reject each row, or each turn of it."""
        together: list[tuple[RawRow, Example]] = []
        chars = 0
        for row in rows:
            for example in self._examples(row):
                together.append((row, example))
                chars += len(example.input) + len(example.output)
                if chars > PART_CHARS:  # of one row there may be many
                    self._take_examples(together)
                    together, chars = [], 0
        self._take_examples(together)
        self._parts.flush_when_long()

    def _examples(self, row: RawRow) -> Iterator[Example]:
        """The examples of a row, one or of each turn; what is none is rejected."""
        try:
            if row.problem is not None:
                raise row.problem
            if self._chunk.turns == "last":
                yield normalise(row.record, self._chunk.columns)
                return
            for example in normalise_each(row.record, self._chunk.columns):
                if isinstance(example, RejectedTurn):
                    self.reject(replace(row, raw=example.raw), example.rejection)
                else:
                    yield example
        except Rejection as rejection:
            self.reject(row, rejection)

    def _take_examples(self, examples: list[tuple[RawRow, Example]]) -> None:
        clean = []
        reasons = contaminations([example for _, example in examples], self._excluded)
        for (row, example), contaminated in zip(examples, reasons, strict=True):
            if contaminated is None:
                clean.append((row, example))
            else:
                self._reject_example(row, example, contaminated)
        lengths = measure([example for _, example in clean], self._encoder, too_long=self._too_long)
        for (row, example), measured in zip(clean, lengths, strict=True):
            if isinstance(measured, Measured):
                self._admit(row, example, measured)
            else:
                self._reject_example(row, example, measured)
            self._parts.flush_when_long()

    def _reject_example(self, row: RawRow, example: Example, rejection: Rejection) -> None:
        """Reject a row, or of a conversation all of whose turns are examples that turn."""
        if example.messages is None or example.turn is None:
            self.reject(row, rejection)
            return
        turn = rejected_turn(json.loads(example.messages)[example.turn], example.turn, rejection)
        self.reject(replace(row, raw=turn.raw), turn.rejection)

    def _admit(self, row: RawRow, example: Example, measured: Measured) -> None:
        self._read += 1
        if len(self._columns) < COLUMNS_KEPT:
            own = {name: value for name, value in json.loads(example.extra).items() if len(name) <= COLUMN_CHARS}
            self._columns.update(own)
            self._numbers.update(name for name, value in own.items() if isinstance(value, (int, float)))
        texts = (example.instruction, example.input, example.output)
        self._special_text += self._encoder.holds_special(*texts)
        if self._encoder.is_special(example.output):
            self._special_outputs += 1
            if len(self._first_special) < SHOWN_REJECTED:
                self._first_special.append(f"{self._chunk.uri}:{row.line}")
        chars = sum(map(len, (*texts, example.messages or "", example.extra)))
        self._parts.add(
            "admitted",
            {
                "id": content_hash(*texts).hex(),
                "source": self._chunk.source,
                **vars(example),
                **vars(measured),
                "file": self._chunk.uri,
                "input_index": self._chunk.input_index,
                "file_index": self._chunk.file_index,
                "line": row.line,
                "instruction_key": instruction_key(example.instruction),
                "pair_key": content_hash(example.input, example.output),
            },
            chars,
        )

    def reject(self, row: RawRow, rejection: Rejection) -> None:
        """Keep a row with the reason why it cannot be used."""
        self._read += 1
        self._reasons[rejection.reason] += 1
        detail = _encodable(rejection.detail)
        if len(self._first_rejected) < SHOWN_REJECTED and rejection.reason not in ASKED_FOR:
            shown = detail if len(detail) <= SHOWN_CHARS else f"{detail[:SHOWN_CHARS]}..."
            self._first_rejected.append(f"{self._chunk.uri}:{row.line}: {rejection.reason}, {shown}")
        self._parts.add(
            "rejected",
            {
                "source": self._chunk.source,
                "file": self._chunk.uri,
                "line": row.line,
                "raw": _encodable(row.raw),
                "reason": rejection.reason,
                "detail": detail,
            },
            len(row.raw),
        )

    def finish(self) -> AdmittedChunk:
        """The account of the chunk; `admit_chunks` knows the parts."""
        columns = sorted(self._columns)[:COLUMNS_KEPT]
        return AdmittedChunk(
            self._chunk.source,
            self._chunk.uri,
            self._read,
            [],
            [],
            dict(self._reasons),
            columns,
            sorted(self._numbers.intersection(columns)),
            self._first_rejected,
            self._special_text,
            self._special_outputs,
            self._first_special,
        )


def _encodable(text: str) -> str:
    """Parquet text is UTF-8: what cannot be encoded is shown as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def columns_of(chunks: list[AdmittedChunk]) -> list[str]:
    """Names of the rows' own columns, from the records of all chunks; at COLUMNS_KEPT of them there may be others."""
    columns: set[str] = set()
    for chunk in chunks:
        if len(columns) < COLUMNS_KEPT:
            columns.update(chunk.columns)
    return sorted(columns)[:COLUMNS_KEPT]
