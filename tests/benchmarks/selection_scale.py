"""Selection over many rows: times, cores, the driver's memory, and whether it is that of a sort.

    PYTHONPATH=tests:. python tests/benchmarks/selection_scale.py --output FOLDER --rows 1000000 10000000 --check
    PYTHONPATH=tests:. python tests/benchmarks/selection_scale.py --output FOLDER --rows-per-file 500 --weigh --overlap

SCORED parts are made up: ids, a score with ties, token counts, ten sources, a thousand clusters, and with --overlap all columns
that scores are compared by; texts are short. What runs on them is what runs in `tss run` after scoring: `weigh`, the selection
without caps, with a cap and with a quota, the overlap of scores, and what the summary shows. Each number of rows has a process
of its own, and parts are removed after it. Seconds of cores are those of all processes of Ray and of the driver.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from small_runs import settings

from operators.schema import SCORED
from operators.selection.ranking_key import words_of
from pipeline.engine.job import Job
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import pools
from pipeline.engine.session import session
from pipeline.runs.score_digest import digest_scores
from pipeline.selection.choose import select
from pipeline.selection.overlap import overlap
from pipeline.selection.weigh import weigh
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import BlockPart

COMPARED = ("tss", "tss_nce", "ppl", "ifd", "ifd_loss", "random")
SHARE, CAP, CLUSTERS, SOURCES = 0.1, 0.00015, 1000, 10  # of the tokens; of the rows, for each of so many clusters
SELECTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cap": {"select__max_per": {"cluster": 0}},
    "quota": {"select__quota": {"source": {"s0": 0.5, "s1": 0.1}}},
}


def made_up(number: int, rows: int, more: bool) -> pa.Table:
    """SCORED rows of one file; the same number gives the same rows."""
    rng = np.random.default_rng(number)
    raw = rng.bytes(16 * rows).hex()
    columns: dict[str, Any] = {
        "id": [raw[32 * row : 32 * row + 32] for row in range(rows)],
        "source": np.char.add("s", np.minimum(rng.geometric(0.4, rows) - 1, SOURCES - 1).astype(str)),
        "n_prompt_tokens": rng.integers(20, 200, rows, dtype=np.int32),
        "n_target_tokens": rng.integers(1, 400, rows, dtype=np.int32),
        "cluster": (CLUSTERS * rng.random(rows) ** 2).astype(
            np.int32
        ),  # the largest has 63 times the rows of the smallest
        "tss_pp": np.where(rng.random(rows) < 0.01, 0.5, rng.normal(0, 1, rows)),  # one of a hundred is tied
    }
    columns["length"] = columns["n_target_tokens"]
    columns |= {name: rng.random(rows) for name in COMPARED if more}
    columns |= {name: ["text"] * rows for name in ("instruction", "input", "output")} | {"extra": ["{}"] * rows}
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in SCORED
    ]
    return pa.table(arrays, schema=SCORED)


def write_file(job: tuple[str, int, int, bool]) -> BlockPart:
    """One part."""
    folder, number, rows, more = job
    return BlockPart(number, write_table(f"{folder}/{number:06d}.parquet", made_up(number, rows, more)))


class Peaks:
    """What the processes of a step have used, looked at twice a second."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self.driver, self.store = 0.0, 0.0
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self.look()

    def look(self) -> None:
        """Add what can be seen now."""
        here = psutil.Process()
        self.driver = max(self.driver, here.memory_info().rss / 2**20)
        for process in [here, *here.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self.seconds[process.pid] = times.user + times.system
                if process.name() == "raylet":
                    self.store = max(self.store, store_of(process.pid))
            except (psutil.Error, OSError):
                continue


def store_of(raylet: int) -> float:
    """MiB that the object store of a node has had in use at most: pages of its mapped file that were touched."""
    links = [link for link in Path(f"/proc/{raylet}/fd").iterdir() if "plasma" in str(link.readlink())]
    return sum({link.stat().st_ino: link.stat().st_blocks * 512 for link in links}.values()) / 2**20


@contextmanager
def step(name: str, rows: int) -> Iterator[None]:
    """Time a step and print what it took."""
    before, peaks, began = Peaks(), Peaks(), time.monotonic()
    before.look()
    peaks._watching.start()
    yield
    peaks._ended.set()
    peaks._watching.join()
    peaks.look()
    wall = time.monotonic() - began
    cores = sum(seconds - before.seconds.get(pid, 0.0) for pid, seconds in peaks.seconds.items())
    print(
        f"| {rows:,} | {name} | {wall:.1f} s | {cores:.1f} s | {peaks.driver:,.0f} MiB | {peaks.store:,.0f} MiB |",
        flush=True,
    )


def by_sort(parts: list[BlockPart], chosen: str, cap: int) -> tuple[np.ndarray, int]:
    """The ids of a selection, as numpy sorts them, best first; and what it costs. With a quota, in the order of budgets."""
    names = ["id", "source", "tss_pp", "cluster", "n_prompt_tokens", "n_target_tokens"]
    table = pa.concat_tables(read_table(record.part.path, names) for record in parts)
    high, low = np.concatenate([words_of(chunk) for chunk in table["id"].chunks], axis=1)
    costs = table["n_prompt_tokens"].to_numpy().astype(np.int64) + table["n_target_tokens"].to_numpy()
    ranked = best_first = np.lexsort((low, high, -table["tss_pp"].to_numpy()))
    asked = int(np.floor(int(costs.sum()) * SHARE + 1e-9))
    if chosen == "cap":
        ranked = ranked[_places_in_groups(table["cluster"].to_numpy()[ranked]) < cap]
    budgets = [(ranked, asked)]
    if chosen == "quota":
        sources = table["source"].to_numpy(zero_copy_only=False)[ranked]
        budgets = [
            (ranked[sources == "s0"], int(asked * 0.5 + 1e-9)),
            (ranked[sources == "s1"], int(asked * 0.1 + 1e-9)),
        ]
        budgets.append((ranked[(sources != "s0") & (sources != "s1")], int(asked * 0.4 + 1e-9)))
    taken = np.concatenate([rows[np.cumsum(costs[rows]) <= room] for rows, room in budgets])
    place = np.empty(len(table), dtype=np.int64)
    place[best_first] = np.arange(len(table))
    taken = taken[np.argsort(place[taken])]
    return np.stack([high[taken], low[taken]]), int(costs[taken].sum())


def _places_in_groups(groups: np.ndarray) -> np.ndarray:
    """Int64 [N]: how many of the same group stand before each."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return places


def selected(parts: list[BlockPart]) -> tuple[np.ndarray, str]:
    """The ids of written parts, in their order, and a digest of these."""
    chunks, ranks = [], 0
    for record in parts:
        table = read_table(record.part.path, ["id", "selection_rank"])
        assert table["selection_rank"].to_numpy().tolist() == list(range(ranks, ranks + len(table)))
        chunks.append(words_of(table["id"]))
        ranks += len(table)
    ids = np.concatenate(chunks, axis=1)
    return ids, hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()


def measure(options: argparse.Namespace) -> None:
    """All steps for one number of rows."""
    (rows,), folder = options.rows, options.output / "parts"
    folder.mkdir(parents=True)
    files = -(-rows // options.rows_per_file)
    sizes = [min(options.rows_per_file, rows - number * options.rows_per_file) for number in range(files)]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.writers) as pool:
        jobs = [(str(folder), number, size, options.overlap) for number, size in enumerate(sizes)]
        parts = pool.map(write_file, jobs, chunksize=max(1, min(64, files // 16)))
    size = sum(record.part.bytes for record in parts) / 2**30
    print(f"{rows:,} rows in {files:,} files, {size:.1f} GiB, written in {time.monotonic() - began:.0f} s", flush=True)
    cap, results = max(1, int(CAP * rows)), []
    with session(None):
        for name in options.select:
            more = SELECTIONS[name] | ({"select__max_per": {"cluster": cap}} if name == "cap" else {})
            config = settings(options.output, ["rows.jsonl"], "model", select__budget={"token_fraction": SHARE}, **more)
            job = Job(config, str(options.output / f"work-{name}"), "run", pools(config), Reporter(quiet=True))
            if options.weigh and name == options.select[0]:
                with step("weigh", rows):
                    parts, _ = weigh(job, parts)
                shutil.rmtree(folder)
                print(f"{len(parts):,} parts after it")
            with step(f"select, {name}", rows):
                chosen = select(job, parts, {})
            if name == "plain" and options.overlap:
                with step("overlap", rows):
                    overlap(job, parts, chosen, 0)
            if name == "plain":
                with step("digest", rows):
                    digest_scores(job, parts, rows)
            ids, digest = selected(chosen.parts)
            print(f"{ids.shape[1]:,} rows selected, {chosen.used:,} of {chosen.asked:,} tokens, digest {digest}")
            results.append((name, ids, chosen.used))
            if name != options.select[0] or not options.weigh:  # weighed parts lie in the first one
                shutil.rmtree(job.work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"driver's peak over all steps: {peak:,.0f} MiB", flush=True)
    for name, ids, used in results if options.check else ():  # last, since a sort takes memory
        _check(parts, name, cap, ids, used)


def _check(parts: list[BlockPart], name: str, cap: int, ids: np.ndarray, used: int) -> None:
    expected, cost = by_sort(parts, name, cap)
    if not np.array_equal(ids, expected) or used != cost:
        raise SystemExit(
            f"select, {name}: NOT the selection of a sort: {ids.shape[1]} rows, {expected.shape[1]} expected"
        )
    print(f"select, {name}: equal to the sort, every id, in its order, and the cost", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--rows-per-file", type=int, default=100_000)
    parser.add_argument("--select", nargs="+", choices=SELECTIONS, default=["plain", "cap"])
    parser.add_argument("--weigh", action="store_true", help="select from what `weigh` makes of the files")
    parser.add_argument("--overlap", action="store_true", help="compare the selections of all scores too")
    parser.add_argument("--check", action="store_true", help="compare with a sort, which takes memory")
    parser.add_argument("--writers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if len(options.rows) == 1:
        try:
            measure(options)
        finally:
            shutil.rmtree(options.output, ignore_errors=True)
        return
    print("| rows | step | wall | cores | driver | object store |\n|---|---|---|---|---|---|", flush=True)
    others = sys.argv[1:]
    at = others.index("--rows")
    rest = [*others[:at], *others[at + 1 + len(options.rows) :]]
    for rows in options.rows:
        subprocess.run([sys.executable, __file__, *rest, "--rows", str(rows)], check=True)


if __name__ == "__main__":
    main()
