"""How far scorers are within their blocks: a small note of each in the work folder, which the driver reads while it waits."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass, replace

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
    """What a scorer does: the block, pairs of it that it has computed with their tokens and the seconds that these took, and
    all that it has to (0: not known); before its first block it loads the model. `written`: when, by its machine's clock."""

    block: int = -1
    done: int = 0
    tokens: int = 0
    seconds: float = 0.0
    all: int = 0
    all_tokens: int = 0
    loading: bool = False
    written: float = 0.0


class Notes:
    """The note of one scorer."""

    def __init__(self, work: str):
        self._folder = urls.join(work, FOLDER)

    def loading(self) -> None:
        """The model is loaded now."""
        self._write(Note(loading=True))

    def scoring(self, block: int, done: int, tokens: int, seconds: float, all: int, all_tokens: int) -> None:
        """So many pairs of a block, and so many tokens, are computed of all, in so many seconds."""
        self._write(Note(block, done, tokens, seconds, all, all_tokens))

    def _write(self, note: Note) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # scoring goes on without
            dated = replace(note, written=time.time())
            files.write(urls.join(self._folder, f"{this_actor()}.json"), json.dumps(asdict(dated)).encode())


class Watch:
    """What the driver knows of a round of scoring: blocks that are finished, and notes of those that are not."""

    def __init__(self, name: str, work: str, blocks: list[Block]):
        self._name, self._folder = name, urls.join(work, FOLDER)
        self._rows = {block.block: block.placed.rows - sum(block.duplicates.values()) for block in blocks}
        self._finished: dict[int, tuple[int, int, float]] = {}  # pairs computed, their tokens, and seconds
        self._passed: dict[
            int, tuple[int, int, float]
        ] = {}  # the same of blocks that scorers have left, without a record yet
        self._looked = time.monotonic()
        # By file of a note: when it was written, when that was seen, and when it was looked for before.
        self._seen: dict[str, tuple[float, float, float]] = {}
        self._notes: dict[str, Note] = {}
        # What scorers of an earlier round, or of a run that was interrupted, have left says nothing of this one.
        self._before: dict[str, float] = {}
        with contextlib.suppress(OSError, pa.ArrowException):  # a run goes on without
            self._before = {path: note.written for path, note in self._read_all()}

    def finish(self, scored: ScoredBlock) -> None:
        """A block has been scored."""
        work = scored.work
        self._finished[scored.block] = work.computed - work.resumed, work.tokens, work.seconds

    def look(self) -> UnderWay:
        """Pairs done, of all, tokens a second by the clocks of the scorers at work, and the time that is left. Raises OSError.

        Pairs differ in length, and those of a block are computed from the longest on: time goes by tokens."""
        of_round = [(path, note) for path, note in self._read_all() if self._before.get(path) != note.written]
        dated = [(note, self._age(path, note)) for path, note in of_round]
        self._looked = time.monotonic()
        self._pass_on(of_round)
        notes, ages = [note for note, _ in dated], {note.block: age for note, age in dated}
        finished = dict(self._finished)  # the driver may add to it meanwhile
        active = {note.block: note for note in notes if note.block in self._rows and note.block not in finished}
        finished = {block: amounts for block, amounts in self._passed.items() if block not in active} | finished
        loading = sum(note.loading for note in notes)
        computed = [*finished.values(), *((note.done, note.tokens, note.seconds) for note in active.values())]
        done, tokens, seconds = (sum(amounts) for amounts in zip(*computed, strict=True)) if computed else (0, 0, 0.0)
        total, all_tokens = self._totals(finished, active)
        if not done:
            words = (
                f"{loading} of {len(notes)} scorers load their model and try it"
                if loading
                else "no pair is computed yet"
            )
            return UnderWay(words)
        metrics.show("tss_stage_done", done, stage=f"{self._name} pairs")
        metrics.show("tss_stage_total", total or 0, stage=f"{self._name} pairs")
        share = sum(note.tokens / note.all_tokens for note in active.values() if note.all_tokens)
        words = f"{done:,} pairs" if total is None else f"{done:,} of {total:,} pairs"
        at_work = [ages[note.block] for note in active.values() if note.seconds > 0]
        if tokens and seconds and at_work:
            rate = len(at_work) * tokens / seconds
            since = sum(at_work) / len(at_work)  # scorers write their notes now and then, and go on meanwhile
            left = "" if all_tokens is None else f", {_time((all_tokens - tokens) / rate - since)} left"
            words += f", {rate:,.0f} tokens a second{left}" if rate >= 1 else f", {rate:.2f} tokens a second{left}"
        return UnderWay(words, share)

    def _read_all(self) -> list[tuple[str, Note]]:
        paths = [path for path, _ in files.list_files(self._folder)]
        return [(path, note) for path in paths if (note := _read(path)) is not None]

    def _pass_on(self, notes: list[tuple[str, Note]]) -> None:
        """Know blocks that a scorer has left for the next: Ray Data hands the record of a block on when the next is done."""
        for path, note in notes:
            before = self._notes.get(path)
            if before is not None and before.block != note.block and before.all and before.done:
                seconds = before.seconds * before.all_tokens / max(1, before.tokens)
                self._passed[before.block] = before.all, before.all_tokens, seconds
            self._notes[path] = note

    def _age(self, path: str, note: Note) -> float:
        """Seconds since a note was written, as far as its machine's clock agrees with the looks before and after that."""
        now = time.monotonic()
        if path not in self._seen or self._seen[path][0] != note.written:
            self._seen[path] = note.written, now, self._looked
        _, seen, before = self._seen[path]
        return min(max(time.time() - note.written, now - seen), now - before)

    def _totals(
        self, finished: dict[int, tuple[int, int, float]], active: dict[int, Note]
    ) -> tuple[int | None, int | None]:
        """Pairs and tokens of all blocks: known ones, and of others as many a row as those have; None where notes do not
        say."""
        rows = sum(self._rows[block] for block in (*finished, *active))
        if not rows or not all(note.all for note in active.values()):
            return None, None
        known = [
            *(amounts[:2] for amounts in finished.values()),
            *((note.all, note.all_tokens) for note in active.values()),
        ]
        pairs, tokens = (round(sum(amounts) * sum(self._rows.values()) / rows) for amounts in zip(*known, strict=True))
        return pairs, tokens


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read(path: str) -> Note | None:
    try:
        return from_json(Note, files.read(path, at_most=_NOTE_BYTES))
    except (FileNotFoundError, ValueError):
        return None  # written anew just now
