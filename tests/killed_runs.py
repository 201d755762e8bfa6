"""Runs in processes of their own that are killed, and what is compared afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("actor", "worker", "driver", "ray", "power")


class Started:
    """`tss run` in a process of its own, with a Ray of its own; or a script that ends in such arguments."""

    def __init__(self, config: Path, *arguments: str, script: Sequence[str] = ("-m", "pipeline")):
        self._log = config.with_suffix(".log").open("ab")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        # How long a driver looks for a Ray that is gone before it ends: a minute, if nobody says less.
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
        # Where a script lies comes before the modules of this checkout.
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
        command = [sys.executable, *script, "run", str(config), *arguments]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment, cwd=ROOT)
        self._seen: dict[int, psutil.Process] = {}
        self.ended = True

    def look(self) -> list[psutil.Process]:
        """All processes that the run has started so far and that live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self._seen.setdefault(one.pid, one)
        return [one for one in self._seen.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def actors(self) -> list[psutil.Process]:
        """Its actors that score."""
        return [one for one in self.look() if "ScoreBlock" in _title(one)]

    def wait_for(self, ready: Callable[[], object], seconds: float = 240.0) -> bool:
        """Whether `ready` came true before the run ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            if ready():
                return True
            time.sleep(0.2)  # each look is one at all processes of the machine
        return False

    def kill(self, kind: str, rng: random.Random, grace: float = 30.0) -> bool:
        """SIGKILL an actor that scores, any worker, the driver, all of Ray, or everything at once as on a machine that is
        switched off (`power`). False where there is no such process (yet). Ray has `grace` seconds to notice that its driver is
        gone, in which its actors may still finish what they have begun; `ended` says whether a driver ended by itself."""
        alive = self.look()
        named = {one.pid: _title(one) for one in alive}
        workers = [one for one in alive if named[one.pid].startswith("ray::")]
        if kind in ("actor", "worker"):
            chosen = self.actors() if kind == "actor" else workers
            if not chosen:
                return False
            _kill(rng.choice(sorted(chosen, key=lambda one: one.pid)))
            return True
        if kind != "ray":
            self.process.kill()
        for one in alive if kind != "driver" else []:
            _kill(one)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(90)  # a driver whose Ray is gone ends by itself
        self.ended = self.process.poll() is not None
        self.process.kill()
        self.end(grace)
        return True

    def end(self, grace: float = 3.0) -> int:
        """Wait for the run, and remove what a killed one has left running after `grace` seconds."""
        status = self.process.wait()
        _, left = psutil.wait_procs(self.look(), timeout=grace)
        for one in left:
            _kill(one)
        psutil.wait_procs(left, timeout=10)
        self._log.close()
        return status


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def parts_of(output: Path) -> list[Path]:
    """Parts of the likelihood store by age."""
    found = [path for path in (output / "likelihoods").rglob("*.parquet") if not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def switch_off(output: Path) -> None:
    """What a machine that is switched off may leave on its disk: the newest part and what is in work cut off, drafts of a part
    and of a request."""
    for path in parts_of(output)[-1:]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        path.with_name(f".{path.name}.draft").write_bytes(b"PAR1")
    for path in (output / ".work").glob("*/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    for path in (output / ".work").glob("*/request.json"):
        path.with_name(f".{path.name}.draft").write_bytes(path.read_bytes()[:20])


def published(output: Path) -> Path:
    """The current run of an output."""
    return output / json.loads((output / "latest.json").read_text())["run"]


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two published runs of the same request: rows to the last bit, ranks, accounts, pairs."""
    found = []
    for kind, key in (("scored", "id"), ("selected", "selection_rank"), ("rejected", "line")):
        rows, expected = (pq.read_table(run / kind).sort_by(key).to_pylist() for run in (one, other))
        if rows != expected:
            changed = [a.get("id") for a, b in zip(rows, expected, strict=False) if a != b]
            found.append(f"{kind}: {len(rows)} rows against {len(expected)}, {len(changed)} differ: {changed[:3]}")
    known, wanted = (json.loads((run / "manifest.json").read_text()) for run in (one, other))
    for name in ("counts", "budget"):
        if known[name] != wanted[name]:
            found.append(f"{name}: {known[name]} against {wanted[name]}")
    if known["pairs"]["computed"] != wanted["pairs"]["computed"]:
        found.append(f"pairs computed: {known['pairs']['computed']} against {wanted['pairs']['computed']}")
    return found


def stored_pairs(output: Path) -> tuple[int, int]:
    """(rows of the store, distinct ones): they are equal where nothing that was stored was computed again."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for path in parts_of(output):
        table = pq.read_table(path, columns=["group", "pair"])
        found.update(zip(*(table[name].to_pylist() for name in ("group", "pair")), strict=True))
    return sum(found.values()), len(found)
