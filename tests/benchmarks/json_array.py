"""Memory and time of reading a large JSON array, beside the same rows as JSON lines and in an object around them.

    python tests/benchmarks/json_array.py --mib 1024 --folder /tmp/json-array

Each is read in a process of its own: every row is parsed and its layout recognised, in one chunk, as by one task of a run.
The first line of the output is what a process needs before it reads anything.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import time
from pathlib import Path

from operators.normalise import normalise
from pipeline import read_config
from pipeline.reading import chunks
from pipeline.reading.readers import read_chunk

SHAPES = {"lines.jsonl": ("", "\n", "\n"), "array.json": ("[", ",\n", "]"), "object.json": ('{"data": [', ",", "]}")}


def write(path: Path, size: int, opening: str, between: str, closing: str) -> int:
    """A file of about `size` bytes; how many rows it has."""
    rng = random.Random(0)
    rows = written = 0
    with path.open("w") as file:
        file.write(opening)
        while written < size:
            words = " ".join(rng.choices(["apple", "river", "forest", "zürich", 'a "quote"'], k=rng.randint(20, 300)))
            row = {"instruction": f"Copy number {rows}.", "input": "", "output": words, "stars": rows % 5}
            text = (between if rows else "") + json.dumps(row, ensure_ascii=False)
            written += len(text)
            rows += 1
            file.write(text)
        file.write(closing)
    return rows


def measure(path: str, answers: multiprocessing.Queue) -> None:
    """Read a file, and answer with (rows, seconds, peak of resident memory in MiB)."""
    rows, start = 0, time.perf_counter()
    if path:
        wanted = read_config.validate({"input": path, "output": "o", "ray": {"read_blocks": 1}}, "benchmark")
        for chunk in chunks.plan(wanted):
            for unread in read_chunk(chunk):
                row = unread.read()
                normalise(row.record)
                rows += row.problem is None
    answers.put((rows, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Write, read and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/json-array"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    processes = multiprocessing.get_context("spawn")
    try:
        for name, signs in {"": (), **SHAPES}.items():
            path = arguments.folder / name
            expected = write(path, arguments.mib << 20, *signs) if name else 0
            answers = processes.Queue()
            process = processes.Process(target=measure, args=(str(path) if name else "", answers))
            process.start()
            process.join()
            rows, seconds, peak = answers.get(timeout=1) if process.exitcode == 0 else (0, 0.0, 0.0)
            if rows != expected:
                raise SystemExit(f"{name}: {rows} rows read of {expected}")
            size = path.stat().st_size / 2**20 if name else 0
            print(
                f"{name or 'nothing':12} {size:6.0f} MiB  {rows:9,} rows  {seconds:6.1f} s  peak {peak:6.0f} MiB",
                flush=True,
            )
            if name:
                path.unlink()
    finally:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
