"""Rows of the inputs: all of them where there are few, else a sample that is the same each time, and how many there are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from operators.error_text import first_line
from operators.normalise import Example, RejectedTurn, normalise, normalise_each
from operators.rejections import Rejection
from pipeline.planning.cells import COUNTED, IN_ROWS, Look, Stratum
from pipeline.reading.chunks import Chunk
from pipeline.reading.rows import Unread

WHOLE_BYTES = 16 << 20  # inputs of at most so many bytes are read whole
WHOLE_ROWS = 20_000  # or of so many rows, where bytes are not known
SAMPLE_ROWS = 4000
FIRST_ROWS = 300  # of each stratum, by which it is known how many it has
READ_BYTES = 128 << 20  # a sample ends here, however few rows it has
GROUP = 64  # neighbours in a file, which may resemble each other


@dataclass(frozen=True)
class SeenRow:
    """An example, or the reason why a row is none; `group` numbers GROUP neighbours in a file."""

    source: str
    group: int
    example: Example | None
    reason: str = ""


@dataclass(frozen=True)
class Sample:
    """Rows that were looked at, `whole` where these are all; how many rows the corpus has, and in how many groups; files that
    cannot be read."""

    rows: list[SeenRow]
    corpus: float
    whole: bool
    how: str
    unreadable: list[str] = field(default_factory=list)

    @property
    def groups(self) -> int:
        """Groups of neighbours that the sample has seen."""
        return len({row.group for row in self.rows})

    @property
    def all_groups(self) -> float:
        """Groups of neighbours of the corpus."""
        return self.groups * self.corpus / max(1, len(self.rows))

    @property
    def rejected(self) -> Counter[str]:
        """Rows without a layout, by reason."""
        return Counter(row.reason for row in self.rows if row.example is None)


class _Drawn:
    """What has been seen of a stratum."""

    def __init__(self, stratum: Stratum, first_group: int):
        self.stratum, self.rows = stratum, list[SeenRow]()
        self._looks, self._group = stratum.looks(), first_group
        self._counted, self._covered, self.bytes = 0, 0, 0
        self._raw = 0
        self.ended = False

    def draw(self, wanted: float) -> None:
        """Look further until there are so many rows."""
        while len(self.rows) < wanted and not self.ended and self.bytes < READ_BYTES:
            look = next(self._looks, None)
            if look is None:
                self.ended = True
                return
            self._counted += look.rows
            self._covered += look.size
            self._raw += len(look.unread)
            self.bytes += sum(row.size for row in look.unread)
            self._group = _take(look, self._group, self.rows)

    @property
    def corpus(self) -> float:
        """How many rows the stratum has: as many in each byte as where it was looked, and in each row as many turns."""
        raw = self.stratum.size if self.stratum.kind in IN_ROWS else 0.0
        if not raw:
            raw = self.stratum.size * self._counted / max(1, self._covered)
        return raw * len(self.rows) / max(1, self._raw)


def take_sample(chunks: list[Chunk], seed: int, rows: int = SAMPLE_ROWS, whole_bytes: int = WHOLE_BYTES) -> Sample:
    """Rows of the chunks: all where they have at most `whole_bytes`, else about so many."""
    kinds: dict[tuple[int, str, bool], list[Chunk]] = {}
    for chunk in chunks:
        kinds.setdefault((chunk.input_index, chunk.kind, chunk.compression is not None), []).append(chunk)
    unreadable: list[str] = []
    strata = [Stratum(same, seed) for same in kinds.values()]
    counted = sum(stratum.size for stratum in strata if stratum.kind in COUNTED)
    files = {chunk.uri: chunk.size for chunk in chunks if chunk.kind not in COUNTED}
    if sum(files.values()) <= whole_bytes and counted <= WHOLE_ROWS:
        seen: list[SeenRow] = []
        for stratum in strata:
            group = len(seen) + 1
            for look in _readable(stratum.whole(), unreadable):
                group = _take(look, group, seen)
        return Sample(seen, len(seen), True, "all rows were read", unreadable)
    return _sampled(strata, seed, rows, unreadable)


def _sampled(strata: list[Stratum], seed: int, rows: int, unreadable: list[str]) -> Sample:
    drawn = [_Drawn(stratum, number << 40) for number, stratum in enumerate(strata)]
    for wanted in (0, 1):
        total = sum(part.corpus for part in drawn)
        for part in drawn:
            target = max(FIRST_ROWS, rows * part.corpus / max(1.0, total)) if wanted else FIRST_ROWS
            try:
                part.draw(target)
            except (OSError, EOFError, pa.ArrowException) as error:
                part.ended = True
                unreadable.append(first_line(error))
    total = sum(part.corpus for part in drawn)
    share = min(1.0, rows / max(1.0, total))
    seen: list[SeenRow] = []
    for part in drawn:
        count = min(len(part.rows), round(share * part.corpus))
        seen += _thinned(part.rows, count, seed)
    where = f"in {sum(1 for part in drawn if part.rows)} kinds of files" if len(drawn) > 1 else ""
    how = f"{len(seen):,} rows from cells spread over the inputs by size{' ' + where if where else ''}; rows by size"
    return Sample(seen, total, False, how, unreadable)


def _thinned(rows: list[SeenRow], count: int, seed: int) -> list[SeenRow]:
    kept = sorted(random.Random(seed).sample(range(len(rows)), count))
    return [rows[place] for place in kept]


def _readable(looks: Iterator[Look], unreadable: list[str]) -> Iterator[Look]:
    try:
        yield from looks
    except (OSError, EOFError, pa.ArrowException) as error:
        unreadable.append(first_line(error))


def _take(look: Look, group: int, seen: list[SeenRow]) -> int:
    """Add the rows of a look; the number of the next group."""
    for place, unread in enumerate(look.unread):
        seen += _examples(unread, look.chunk, group + place // GROUP)
    return group + len(look.unread) // GROUP + 1


def _examples(unread: Unread, chunk: Chunk, group: int) -> Iterable[SeenRow]:
    """The examples of a row, one or of each turn; or why there are none."""
    rows: list[SeenRow] = []
    try:
        row = unread.read()
        if row.problem is not None:
            raise row.problem
        if chunk.turns == "last":
            return [SeenRow(chunk.source, group, normalise(row.record, chunk.columns))]
        for example in normalise_each(row.record, chunk.columns):
            rejected = isinstance(example, RejectedTurn)
            reason = example.rejection.reason if isinstance(example, RejectedTurn) else ""
            rows.append(SeenRow(chunk.source, group, None if rejected else example, reason))  # type: ignore[arg-type]
    except Rejection as rejection:
        rows.append(SeenRow(chunk.source, group, None, rejection.reason))
    return rows
