"""What a run tells Prometheus while it goes, through Ray's own endpoint on each node (there with the prefix `ray_`).

The driver counts rows and stages, from records: a task that is tried twice counts once. Scorers count pairs, tokens and the
time in their model where that happens, also within a block, so what a crash lost is counted too. Rates and shares are left to
whoever reads: useful tokens a second, padding, stored pairs, how busy scorers are (`cluster/grafana.json`). The tag `run` tells
runs of one cluster apart, whose counters would add up; it is empty until a run has its id.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operators.scoring.load_scorer import Scorer
    from operators.scoring.score_rows import Work

# Names of counters with their tags, besides RUN that all have, and what they count. Prometheus sees ray_<name>_total.
COUNTERS = {
    "tss_rows": (("outcome",), "rows: read, rejected, duplicate, near_duplicate, scored, selected"),
    "tss_rejected_rows": (("reason",), "rows that were rejected"),
    "tss_pairs": (
        ("source",),
        "pairs of a prompt and a target: computed; stored by earlier runs; equal to another one",
    ),
    "tss_tokens": (
        ("kind",),
        "tokens of scorers: useful, in computed pairs; forwarded through the model; padding among these",
    ),
    "tss_scoring_seconds": (
        (),
        "seconds that scorers were busy with their model; its rate is how much of a scorer works",
    ),
    "tss_models_loaded": ((), "processes that loaded the scorer's model"),
}
GAUGES = {
    "tss_stage_done": (("stage",), "units of a stage that are done"),
    "tss_stage_total": (("stage",), "units of a stage"),
    "tss_scorer_batch_tokens": ((), "tokens that a scorer puts through its model at once"),
    "tss_scorer_device_memory_bytes": (("kind",), "of a scorer's GPU: used, total"),
}
RUN = "run"
_of_process = {RUN: ""}


def of_run(run: str) -> None:
    """Name the run that this process works for from now on; empty: none."""
    _of_process[RUN] = run


@lru_cache(maxsize=len(COUNTERS) + len(GAUGES))
def _metric(name: str) -> Any:
    from ray.util import metrics as of_ray

    kind, specs = (of_ray.Counter, COUNTERS) if name in COUNTERS else (of_ray.Gauge, GAUGES)
    tags, description = specs[name]
    return kind(name, description=description, tag_keys=(*tags, RUN))


def _ray_is_up() -> bool:
    """Whether there is a Ray that takes metrics; it is not brought up, nor imported, for that."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def count(name: str, number: float, **tags: str) -> None:
    """Add to a counter of COUNTERS."""
    if number > 0 and _ray_is_up():
        _metric(name).inc(number, tags={**tags, **_of_process})


def show(name: str, value: float, **tags: str) -> None:
    """Set a gauge of GAUGES."""
    if _ray_is_up():
        _metric(name).set(value, tags={**tags, **_of_process})


def rejected(reasons: Mapping[str, int]) -> None:
    """Count rejected rows by reason."""
    for reason, number in reasons.items():
        count("tss_rejected_rows", number, reason=reason)
        count("tss_rows", number, outcome="rejected")


def scorer(loaded: Scorer) -> None:
    """Show what a scorer has of its device by now."""
    if loaded.device.type != "server":
        show("tss_scorer_batch_tokens", loaded.batch_tokens)
    if loaded.device.type == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info(loaded.device)
        show("tss_scorer_device_memory_bytes", total - free, kind="used")
        show("tss_scorer_device_memory_bytes", total, kind="total")


class Meter:
    """Counts what a scorer does to a stretch of rows, from the growing account of it."""

    def __init__(self, work: Work):
        self._work = work
        self._counted: dict[tuple[str, str], float] = {}

    def read(self, *, finished: bool = False) -> None:
        """Count what has been done since the last reading; what storage had is known once the stretch is `finished`."""
        work = self._work
        self._count("tss_pairs", work.computed - work.resumed, source="computed")
        if finished:
            self._count("tss_pairs", work.recalled + work.resumed, source="stored")
            self._count("tss_pairs", work.pairs - work.computed - work.recalled, source="equal")
        self._count("tss_tokens", work.tokens, kind="useful")
        self._count("tss_tokens", work.forwarded_tokens, kind="forwarded")
        self._count("tss_tokens", work.padding_tokens, kind="padding")
        self._count("tss_scoring_seconds", work.seconds)

    def _count(self, name: str, total: float, **tags: str) -> None:
        key = name, str(tags)
        before = self._counted.get(key, 0)
        count(name, total - before, **tags)
        self._counted[key] = max(before, total)
