"""Recall, precision and time of finding near duplicates, on a generated corpus with planted ones.

    PYTHONPATH=tests:. python tests/benchmarks/near_duplicates.py --rows 10000 100000 --near 0.9

Rows have one of 200 instructions, an input of up to 40 words or none, and an output of 40 to 150 words by Zipf's law, some 700
characters in all. 5% of them are copies of another row with one to three words replaced, in the input or the output. How
similar a planted pair is, and each pair that a run names, is computed with the slow twin of tests/reference.py. Time is that of
the stage alone, from admitted parts to what is left of them: wall, and core-minutes of all processes of Ray and the driver.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from reference import similarity

from operators.hashing import content_hash
from operators.schema import ADMITTED
from pipeline import read_config
from pipeline.engine.job import Job
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import pools
from pipeline.engine.session import session
from pipeline.reading.near_duplicates import drop_near_duplicates
from pipeline.storage.parts import write_part
from pipeline.storage.records import Part

PART_ROWS, PLANTED, INSTRUCTIONS, VOCABULARY = 40_000, 0.05, 200, 30_000


def vocabulary(rng: random.Random) -> list[str]:
    """Words of two to ten letters."""
    return ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 10))) for _ in range(VOCABULARY)]


def texts_of(count: int, seed: int) -> Iterator[tuple[str, str, str, int]]:
    """(instruction, input, output, number of the row that it is a copy of or -1)."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    words = vocabulary(rng)
    instructions = [" ".join(rng.choices(words, k=rng.randint(4, 20))) for _ in range(INSTRUCTIONS)]
    weights = 1 / np.arange(1, VOCABULARY + 1)
    cumulated = np.cumsum(weights / weights.sum())
    pool: list[tuple[int, tuple[str, str, str]]] = []

    def some(length: int) -> str:
        drawn = np.minimum(np.searchsorted(cumulated, numbers.random(length)), VOCABULARY - 1)
        return " ".join(words[word] for word in drawn.tolist())

    for number in range(count):
        if pool and rng.random() < PLANTED:
            of, (instruction, input, output) = pool[rng.randrange(len(pool))]
            parts = [input.split(" "), output.split(" ")]
            for _ in range(rng.randint(1, 3)):
                side = parts[rng.random() < 0.8 or not input]
                side[rng.randrange(len(side))] = rng.choice(words)
            yield instruction, " ".join(parts[0]), " ".join(parts[1]), of
            continue
        row = (
            rng.choice(instructions),
            some(rng.randint(0, 40)) if rng.random() < 0.6 else "",
            some(rng.randint(40, 150)),
        )
        if len(pool) < 20_000:
            pool.append((number, row))
        else:
            pool[rng.randrange(len(pool))] = number, row
        yield *row, -1


def write_corpus(count: int, folder: str, seed: int) -> tuple[list[Part], list[tuple[str, str]]]:
    """Admitted parts, and (copy, original) ids of what was planted."""
    ids: list[str] = []
    planted, rows, parts = [], [], []
    for number, (instruction, input, output, of) in enumerate(texts_of(count, seed)):
        key = content_hash(instruction, input, output).hex()
        ids.append(key)
        if of >= 0 and key != ids[of]:
            planted.append((key, ids[of]))
        place = {"id": key, "source": "s", "file": "f", "input_index": 0, "file_index": 0, "line": number + 1}
        rows.append({**place, "instruction": instruction, "input": input, "output": output, "extra": "{}"})
        if len(rows) == PART_ROWS or number == count - 1:
            parts.append(write_part(folder, pa.Table.from_pylist(rows, schema=ADMITTED), ADMITTED))
            rows = []
    return parts, planted


class Meter:
    """Core-seconds of this process and all that it has started, while a context lasts."""

    def __enter__(self) -> Meter:
        self._seconds: dict[int, float] = {}
        self._ended = threading.Event()
        self._look()
        self._before = dict(self._seconds)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            try:
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
            except psutil.Error:
                continue

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self.seconds = sum(value - self._before.get(pid, 0.0) for pid, value in self._seconds.items())


def rows_by_id(parts: list[Part], wanted: set[str]) -> dict[str, dict]:
    """The texts of rows."""
    rows = {}
    for part in parts:
        table = pq.read_table(part.path, columns=["id", "instruction", "input", "output"])
        rows |= {row["id"]: row for row in table.to_pylist() if row["id"] in wanted}
    return rows


def measure(count: int, near: float, seed: int) -> None:
    """Print what came of one corpus."""
    with tempfile.TemporaryDirectory() as folder:
        parts, planted = write_corpus(count, f"{folder}/admitted", seed)
        config = read_config.validate({"input": "a.jsonl", "output": folder, "dedup": {"near": near}}, "benchmark")
        job = Job(config, f"{folder}/work", "run", pools(config), Reporter(quiet=True))
        began = time.monotonic()
        with Meter() as meter:
            sieved = drop_near_duplicates(job, parts, near)
        wall = time.monotonic() - began
        listed = [row for part in sieved.near.parts for row in pq.read_table(part.path).to_pylist()]
        gone = {row["id"]: row["stayed"] for row in listed}
        texts = rows_by_id(parts, {key for pair in (*planted, *gone.items()) for key in pair})
        similar = [similarity(texts[some], texts[other]) >= near for some, other in planted]
        caught = [some in gone or other in gone for some, other in planted]
        right = sum(similarity(texts[key], texts[stayed]) >= near for key, stayed in gone.items())
        recall = sum(one and two for one, two in zip(similar, caught, strict=True)) / max(1, sum(similar))
        print(
            f"{count:,} rows, near {near:g}: {len(planted):,} planted, {sum(similar):,} of them at least so similar; "
            f"{len(gone):,} rows go; recall {recall:.4f}, precision {right / max(1, len(gone)):.4f}; "
            f"{sieved.account.compared:,} pairs compared; crowded {sieved.account.crowded}; "
            f"{meter.seconds / 60:.2f} core-minutes, {wall:.0f} s wall; driver "
            f"{psutil.Process().memory_info().rss / 2**20:.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--near", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with session(None):
        for count in options.rows:
            measure(count, options.near, options.seed)


if __name__ == "__main__":
    main()
