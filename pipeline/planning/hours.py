"""Hours of GPUs and of this machine's CPU for forward tokens: 2 x parameters x tokens operations, at a rate.

Rates of GPUs are stated by those who make them, and how much of such a rate scoring uses is stated here: neither was measured.
"""

from __future__ import annotations

import os
from typing import Any

from operators.model_files import looks_local
from operators.scoring.outline import Outline
from operators.scoring.speed import matrix_speed, scorer_speed
from pipeline.planning.record import CpuHours, GpuHours
from pipeline.planning.work import Pair

# Dense bfloat16 with sums in float32, in units of 10^12 operations a second, from the makers' data sheets.
TERAFLOPS = {
    "L4": 121.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "A100": 312.0,
    "H100 SXM": 989.0,
    "H200": 989.0,
    "B200": 2250.0,
    "MI300X": 1307.0,
}
UTILISATION = 0.3  # of a GPU's stated rate that is taken
OF_PRODUCTS = 0.5  # of the rate of matrix products on a CPU that is taken, where the scorer itself is not tried
TRIAL_SECONDS = 3.0  # of scoring
TRIED_PARAMETERS = 60_000_000  # a larger scorer is not tried: to load and check it takes longer than all else


def gpu_hours(working: int, tokens: float) -> list[GpuHours]:
    """Hours of one GPU of each name."""
    operations = 2.0 * working * tokens
    return [
        GpuHours(name, operations / (rate * 1e12 * UTILISATION) / 3600, rate, UTILISATION)
        for name, rate in TERAFLOPS.items()
    ]


def cpu_hours(outline: Outline, model: dict[str, Any], longest: int, pairs: list[Pair], tokens: float) -> CpuHours:
    """Hours of this machine's cores: with the scorer's own speed where its files are here and it is small, else with the
    speed of matrix products."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    products = matrix_speed()
    speed = OF_PRODUCTS * products / (2.0 * outline.working)
    how = f"stated: {OF_PRODUCTS:.0%} of {products / 1e9:,.0f} GFLOP/s, which its float32 matrix products reach"
    measured = None
    if looks_local(model.get("name", "")) and outline.working <= TRIED_PARAMETERS:
        measured = scorer_speed(model, longest, pairs, TRIAL_SECONDS)
    if measured is not None:
        speed, how = measured, f"measured: {TRIAL_SECONDS:g} s of scoring with the scorer"
    return CpuHours(tokens / speed / 3600, cores, speed, measured is not None, how)
