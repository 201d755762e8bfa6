"""Live progress per stage: a bar in a terminal, plain log lines elsewhere, and gauges for whoever watches a cluster."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

import pyarrow as pa
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.engine import metrics
from pipeline.interruption import Interruption

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_LOOKS, _MOST_BETWEEN_LINES = 10.0, 120.0


class _Screen(io.TextIOBase):
    """Standard error, for progress alone: where it cannot be written any more, the work goes on in silence."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


@dataclass(frozen=True)
class UnderWay:
    """What there is of units that are not finished, in words, and how many units that makes."""

    words: str
    units: float = 0.0


class Reporter:
    """Shows stages on standard error and keeps the seconds that each took."""

    def __init__(self, *, quiet: bool = False):
        self.timings: dict[str, float] = {}
        self._quiet = quiet
        self._console = Console(file=cast("IO[str]", _Screen()))

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(
        self,
        name: str,
        total: int | None = None,
        unit: str = "parts",
        *,
        slow: str = "",
        look: Callable[[], UnderWay] | None = None,
    ) -> Iterator[Stage]:
        """Time a stage and show how far it is; `total` counts units. `slow` says at its start what will take long, and `look`
        from time to time what has come of units that are not finished."""
        Interruption.require_going()
        began = time.monotonic()
        bar = self._bar() if self._console.is_terminal and not self._quiet else None
        stage = Stage(self, name, total, unit, bar)
        if slow and not bar:
            self.say(f"{name:<12} {stage.summary()}: {slow}")
        try:
            with bar or contextlib.nullcontext(), stage.looking(look):
                yield stage
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - began
        self.say(f"{name:<12} {stage.summary()} in {time.monotonic() - began:.1f} s")

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )


class Stage:
    """A stage under way; `advance` moves it."""

    def __init__(self, reporter: Reporter, name: str, total: int | None, unit: str, bar: Progress | None):
        self._reporter, self._name, self._total, self._unit, self._bar = reporter, name, total, unit, bar
        self._done, self._note, self._last_line = 0, "", time.monotonic()
        self._task = bar.add_task(name, total=total, note="") if bar else None
        metrics.show("tss_stage_total", total or 0, stage=name)
        metrics.show("tss_stage_done", 0, stage=name)

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count finished units; `note` says more, such as rows so far."""
        Interruption.require_going()
        self._done += units
        self._note = note or self._note
        metrics.show("tss_stage_done", self._done, stage=self._name)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=self._note)
        elif self._done != self._total and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._reporter.say(f"{self._name:<12} {self.summary()} so far")

    @contextmanager
    def looking(self, look: Callable[[], UnderWay] | None) -> Iterator[None]:
        """Show what `look` says while units take long."""
        if look is None:
            yield
            return
        ended, began = threading.Event(), time.monotonic()

        def show() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOOKS):
                with contextlib.suppress(OSError, pa.ArrowException):  # storage that does not answer just now
                    seen, now = look(), time.monotonic()
                    # Often in the first minutes, in which somebody watches; a log of days stays short.
                    between = min(_MOST_BETWEEN_LINES, max(_SECONDS_BETWEEN_LOOKS, (now - began) / 10))
                    if self._bar and self._task is not None:
                        self._bar.update(self._task, completed=self._done + seen.units, note=seen.words)
                    elif now - self._last_line > between / 2:
                        self._last_line = now
                        self._reporter.say(
                            f"{self._name:<12} {self._done} of {self._total} {self._unit}, {seen.words} so far"
                        )

        watching = threading.Thread(target=show, daemon=True, name="progress")
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()

    def summary(self) -> str:
        """What is done, in words."""
        of = f" of {self._total}" if self._total is not None else ""
        return f"{self._done}{of} {self._unit}" + (f", {self._note}" if self._note else "")
