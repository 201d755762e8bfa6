"""Cells of paper.py: a training and its measures each, on Ray, kept in a file whose name says all that decides them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paper_training as training
import ray
from paper_corpora import digest_of
from paper_methods import rows_of
from paper_suite import Suite
from paper_training import Fit, Row

VERSION = 1  # counted up by hand where the same settings train or measure otherwise


@dataclass(frozen=True)
class Cell:
    """A training: its settings, which name and hold all that decides its figures, its rows (None: the model as it is), and what
    it is measured on."""

    settings: dict[str, Any]
    model: str
    rows: Path | None
    held_out: dict[str, list[Row]]
    fit: Fit
    steps: int
    suite: Suite | None = None

    @property
    def digest(self) -> str:
        return digest_of(json.dumps({**self.settings, "version": VERSION}, sort_keys=True))

    @property
    def name(self) -> str:
        return " | ".join(
            str(self.settings[key]) for key in ("corpus", "scorer", "model", "unit", "budget", "method", "seed")
        )


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished cells by their digests: `settings` and `result`. Raises ValueError for a file that is no cell."""
    cells = {}
    for path in sorted(folder.glob("*.json")):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            cells[path.stem] = {"settings": cell["settings"], "result": cell["result"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: no finished cell ({error}); delete it, and the cell is computed again"
            ) from error
    return cells


def keep(folder: Path, cell: Cell, result: dict[str, Any]) -> None:
    """Write the file of a cell, whole or not at all."""
    draft = folder / f"{cell.digest}.draft"
    draft.write_text(json.dumps({"settings": cell.settings, "result": result}), encoding="utf-8")
    draft.rename(folder / f"{cell.digest}.json")


def work(cell: Cell, rows: Sequence[Row], threads: int) -> dict[str, Any]:
    """Train and measure one cell, in this process."""
    seed = cell.settings["seed"]
    return training.work_cell(cell.model, rows, cell.held_out, cell.fit, cell.steps, seed, threads, cell.suite)


def work_all(cells: Sequence[Cell], folder: Path, at_once: int | None) -> int:
    """Work the cells that have no file yet, in their order, so many at a time: a GPU each where there is one, else an even part
    of the cores. Returns how many failed; the others are kept."""
    there = finished(folder)
    waiting = [cell for cell in cells if cell.digest not in there]
    print(f"{len(cells):,} cells, {len(cells) - len(waiting):,} of them finished before", flush=True)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    together = at_once or gpus or 1
    share = {"num_gpus": 1} if gpus else {"num_cpus": max(1, int(resources["CPU"] / together))}
    threads = max(1, (os.cpu_count() or 1) // (1 if gpus else together))
    remote, running, failed, done = ray.remote(max_retries=2, **share)(work), {}, 0, 0
    while waiting or running:
        while waiting and len(running) < together:
            cell = waiting.pop(0)
            running[remote.remote(cell, rows_of(cell.rows) if cell.rows else [], threads)] = cell
        (ended,), _ = ray.wait(list(running), num_returns=1)
        cell, done = running.pop(ended), done + 1
        try:
            result = ray.get(ended)
        except ray.exceptions.RayError as error:
            failed += 1
            print(f"failed: {cell.name}\n{error}", file=sys.stderr, flush=True)
            continue
        keep(folder, cell, result)
        figures = {name: result[name] for name in ("rows", "seconds", "core_seconds")}
        print(f"  {done} done, {len(waiting) + len(running)} to go: {cell.name} {json.dumps(figures)}", flush=True)
    return failed
