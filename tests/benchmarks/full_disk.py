"""A disk that is full while a run scores: the run ends in words, and goes on once there is room.

    PYTHONPATH=tests:. python tests/benchmarks/full_disk.py --output full    # as root: mounts a small tmpfs there

The run writes into a disk too small for it, fails, finds more room, and must publish what a run with room enough does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from kill import configuration
from killed_runs import differences, parts_of, published

SMALL, LARGE = "1536k", "512m"


def tss(config: Path) -> subprocess.CompletedProcess[str]:
    """Run `tss run`."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(config), "--quiet"], capture_output=True, text=True, check=False
    )


def main() -> None:
    """Fill the disk, make room, compare; exits with 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    parser.add_argument("--rows", type=int, default=3000)
    options = parser.parse_args()
    folder = options.output.absolute()
    disk = folder / "disk"
    disk.mkdir(parents=True)
    settings = configuration(folder, options.rows)
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))
    if tss(config).returncode:
        raise SystemExit("the run with room enough failed")
    config.write_text(json.dumps({**settings, "output": str(disk / "out")}))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(disk)], check=True)
    try:
        failed = tss(config)
        print(f"full: exit {failed.returncode}: {failed.stderr.strip().splitlines()[0]}")
        print(f"kept: {len(parts_of(disk / 'out'))} parts; published: {(disk / 'out' / 'latest.json').exists()}")
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True)
        done = tss(config)
        if failed.returncode != 1 or done.returncode:
            raise SystemExit(f"exit {failed.returncode}, then {done.returncode}: {done.stderr}")
        found = differences(published(disk / "out"), published(folder / "whole"))
        known = json.loads((published(disk / "out") / "manifest.json").read_text())["pairs"]
        print(
            f"with room: {known['resumed']:,} of {known['computed']:,} pairs were there; {'; '.join(found) or 'equal'}"
        )
        if found:
            raise SystemExit(1)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


if __name__ == "__main__":
    main()
