"""Times and peak memory of whole runs, each in a process of its own.

    python tests/benchmarks/whole_runs.py demo --rows 1000 100000     # does the driver's memory grow with rows?
    python tests/benchmarks/whole_runs.py config CONFIG.yaml          # any configuration, such as real corpora

The driver is the `tss` process. Workers are all other processes started by it; shared pages are counted once (PSS).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INTERVAL = 1.0


def memory(pid: int, field: str) -> float:
    """MiB of a process by /proc: `Pss:` shares shared pages, `Rss:` does not; 0 once it has gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    except (OSError, ProcessLookupError):
        return 0.0
    return 0.0


def session_processes(session: int) -> list[int]:
    """Every process that the driver started, directly or not: Ray's daemons keep the marker in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"TSS_BENCHMARK={session}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def measure(arguments: list[str]) -> dict[str, float]:
    """Run `tss` with these arguments; wall seconds and peaks in MiB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments], env={**os.environ, "TSS_BENCHMARK": str(os.getpid())}
    )
    began, driver, workers = time.monotonic(), 0.0, 0.0
    while process.poll() is None:
        driver = max(driver, memory(process.pid, "Rss:"))
        others = [pid for pid in session_processes(os.getpid()) if pid != process.pid]
        workers = max(workers, sum(memory(pid, "Pss:") for pid in others))
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"tss {' '.join(arguments)}: exit status {process.returncode}")
    return {"wall_s": time.monotonic() - began, "driver_MiB": driver, "workers_MiB": workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    demo = kinds.add_parser("demo")
    demo.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    demo.add_argument(
        "--k", type=int, default=8, help="alternatives: the driver's memory does not depend on it, the time does"
    )
    config = kinds.add_parser("config")
    config.add_argument("configs", nargs="+")
    for kind in (demo, config):
        kind.add_argument("--set", dest="overrides", action="append", default=[], help="passed on to tss")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.kind == "demo":
            runs = {
                f"demo, {rows} rows, K={chosen.k}": [
                    "demo",
                    "--rows",
                    str(rows),
                    "--output",
                    f"{folder}/{rows}",
                    "--set",
                    f"alternatives.k={chosen.k}",
                ]
                for rows in chosen.rows
            }
        else:
            runs = {path: ["run", path] for path in chosen.configs}
        for name, arguments in runs.items():
            figures = measure([*arguments, *(word for text in chosen.overrides for word in ("--set", text))])
            print(f"{name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
