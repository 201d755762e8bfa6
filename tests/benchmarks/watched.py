"""What the processes of a Ray session on this machine take: CPU seconds, memory, object store, by stage of a run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import psutil
import ray


@dataclass
class Watched:
    """The driver and all workers of this session, looked at every half second. `anonymous`: memory that is neither a file
    mapped into memory nor the object store."""

    seconds: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    driver: int = 0  # bytes, at most
    worker: int = 0
    resident: int = 0  # of any worker, with what is mapped
    store: int = 0

    @property
    def core_minutes(self) -> float:
        """Of the driver and all workers."""
        return sum(self.cpu.values()) / 60

    def __str__(self) -> str:
        driver, worker, resident, store = (
            f"{size / (1 << 30):.2f} GiB" for size in (self.driver, self.worker, self.resident, self.store)
        )
        return (
            f"{self.seconds:.0f} s, {self.core_minutes:.2f} core-minutes; at most: driver {driver}, a worker {worker} "
            f"({resident} with mapped files), object store {store}"
        )


class watch:
    """`with watch() as watched:` around work of a session that is up."""

    def __init__(self) -> None:
        self.watched = Watched()
        self._end = threading.Event()
        self._raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid

    def __enter__(self) -> Watched:
        self._began, self._before = time.monotonic(), self._look()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self.watched

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._take()

    def _run(self) -> None:
        while not self._end.wait(0.5):
            self._take()

    def _take(self) -> None:
        for pid, seconds in self._look().items():
            self.watched.cpu[pid] = seconds - self._before.get(pid, 0.0)
        self.watched.seconds = time.monotonic() - self._began

    def _look(self) -> dict[int, float]:
        """CPU seconds of each process so far."""
        own = psutil.Process()
        spent, watched = {}, self.watched
        for process in [own, *psutil.Process(self._raylet).children(recursive=True)]:
            try:
                times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                continue
            spent[process.pid] = times.user + times.system
            anonymous = memory.rss - memory.shared
            if process.pid == own.pid:
                watched.driver = max(watched.driver, anonymous)
            else:
                watched.worker = max(watched.worker, anonymous)
                watched.resident = max(watched.resident, memory.rss)
        free = ray.available_resources().get("object_store_memory", 0.0)
        watched.store = max(watched.store, int(ray.cluster_resources().get("object_store_memory", 0.0) - free))
        return spent
