"""How far scorers are within their blocks: a small note of each in the work folder, which the driver reads while it waits."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipeline.engine import metrics
from pipeline.engine.attempts import this_actor
from pipeline.engine.progress import UnderWay
from pipeline.storage import files, urls
from pipeline.storage.records import Block, ScoredBlock, from_json

FOLDER = "progress"
_NOTE_BYTES = 1 << 12


@dataclass(frozen=True)
class Note:
    """What a scorer does: the block, pairs of it that it has computed, and all that it has to (0: not known); before its first
    block it loads the model."""

    block: int = -1
    done: int = 0
    all: int = 0
    loading: bool = False


class Notes:
    """The note of one scorer."""

    def __init__(self, work: str):
        self._folder = urls.join(work, FOLDER)

    def loading(self) -> None:
        """The model is loaded now."""
        self._write(Note(loading=True))

    def scoring(self, block: int, done: int, all: int) -> None:
        """So many pairs of a block are computed."""
        self._write(Note(block, done, all))

    def _write(self, note: Note) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # scoring goes on without
            files.write(urls.join(self._folder, f"{this_actor()}.json"), json.dumps(asdict(note)).encode())


class Watch:
    """What the driver knows of a round of scoring: blocks that are finished, and notes of those that are not."""

    def __init__(self, name: str, work: str, blocks: list[Block]):
        self._name, self._folder = name, urls.join(work, FOLDER)
        self._rows = {block.block: block.placed.rows - sum(block.duplicates.values()) for block in blocks}
        self._finished: dict[int, int] = {}  # pairs computed
        self._began: tuple[float, int] | None = None  # when pairs were first seen, and how many

    def finish(self, scored: ScoredBlock) -> None:
        """A block has been scored."""
        self._finished[scored.block] = scored.work.computed - scored.work.resumed

    def look(self) -> UnderWay:
        """Pairs done, of all, the rate since they were first seen, and the time that is left. Raises OSError."""
        notes = [note for path, _ in files.list_files(self._folder) if (note := _read(path)) is not None]
        finished = dict(self._finished)  # the driver may add to it meanwhile
        active = {note.block: note for note in notes if note.block in self._rows and note.block not in finished}
        loading = sum(note.loading for note in notes)
        done = sum(finished.values()) + sum(note.done for note in active.values())
        total = self._total(finished, active)
        now = time.monotonic()
        if not done:
            words = f"{loading} of {len(notes)} scorers load their model" if loading else "no pair is computed yet"
            return UnderWay(words)
        metrics.show("tss_stage_done", done, stage=f"{self._name} pairs")
        metrics.show("tss_stage_total", total or 0, stage=f"{self._name} pairs")
        self._began = self._began or (now, done)
        seconds, more = now - self._began[0], done - self._began[1]
        share = sum(note.done / note.all for note in active.values() if note.all)
        return UnderWay(_in_words(done, total, more / seconds if seconds > 0 and more else 0.0), share)

    def _total(self, finished: dict[int, int], active: dict[int, Note]) -> int | None:
        """Pairs of all blocks: known ones, and of others as many a row as those have; None where notes do not say."""
        if not all(note.all for note in active.values()):
            return None
        known = sum(finished.values()) + sum(note.all for note in active.values())
        rows = sum(self._rows[block] for block in (*finished, *active))
        return round(known * sum(self._rows.values()) / rows) if rows else None


def _in_words(done: int, total: int | None, rate: float) -> str:
    words = f"{done:,} pairs" if total is None else f"{done:,} of {total:,} pairs"
    if not rate:
        return words
    left = "" if total is None else f", {_time((total - done) / rate)} left"
    return f"{words}, {rate:,.0f} a second{left}" if rate >= 1 else f"{words}, {rate:.2f} a second{left}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read(path: str) -> Note | None:
    try:
        return from_json(Note, files.read(path, at_most=_NOTE_BYTES))
    except (FileNotFoundError, ValueError):
        return None  # written anew just now
