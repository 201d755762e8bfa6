"""A plan in words: lines for a terminal, and the three that a run shows before it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from pipeline.planning.record import CpuHours, Forward, Plan

SHOWN_GPUS = ("L4", "A100", "H100 SXM", "H200")


def as_json(plan: Plan) -> str:
    """One JSON object with the keys of the records."""
    return json.dumps(asdict(plan), ensure_ascii=False)


def as_lines(plan: Plan) -> str:
    """All of a plan, for people."""
    rows, tokens, pairs = plan.rows, plan.tokens, plan.pairs
    about = "" if rows.exact else "about "
    between = "" if rows.scored_low == rows.scored_high else f" (from {rows.scored_low:,} to {rows.scored_high:,})"
    instructions = plan.instructions
    bounds = "" if instructions.exact else f" (from {instructions.low:,} to {instructions.high:,})"
    lines = [
        f"rows         {about}{rows.corpus:,} ({rows.how}), {rows.rejected_share:.1%} rejected ({_shares(rows.rejected)}), "
        f"{about}{rows.duplicates:,} duplicates, {about}{rows.scored:,} to score{between}",
        f"tokens       about {tokens.prompt:,} of prompts and {tokens.target:,} of outputs; of a row "
        f"{tokens.prompt_of_row:.1f} and {tokens.target_of_row:.1f}",
        f"instructions {about}{instructions.distinct:,} distinct{bounds}, {instructions.pool:,} as alternatives",
        f"pairs        about {pairs.asked:,} asked for ({plan.k} + 2 a row, where there are so many alternatives), "
        f"{pairs.equal:,} equal to another, {pairs.stored:,} in the store: {pairs.left:,} to compute",
        _forward(plan.forward),
        f"scorer       {plan.scorer.model}: {_number(plan.scorer.parameters)} parameters, "
        f"{_number(plan.scorer.working_parameters)} of them at work on each token, in {plan.scorer.dtype}",
        _gpus(plan),
        _cpu(plan.cpu),
        f"memory       about, of a process: {_sizes(plan.space.memory)}",
        f"disk         about: {_sizes(plan.space.disk)}",
        *(f"will hurt    {hazard.words}" for hazard in plan.hazards),
        *(f"note         {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def in_three_lines(plan: Plan) -> list[str]:
    """What a run says before it starts, where it will take long."""
    pairs, forward = plan.pairs, plan.forward
    worst = "; ".join(hazard.words for hazard in plan.hazards[:2]) or "nothing that would hurt was seen"
    return [
        f"plan         about {plan.rows.scored:,} rows, {pairs.left:,} pairs to compute, "
        f"{_number(forward.on_gpu)} to {_number(forward.on_cpu)} tokens through the model",
        _gpus(plan).replace("time, GPU   ", "plan        ") + f"; {_hours(plan.cpu.hours)} on this machine's CPU",
        f"plan         disk about: {_sizes(plan.space.disk)}; {worst}",
    ]


def _forward(forward: Forward) -> str:
    shared = forward.in_pairs / max(1, forward.on_cpu)
    spread = f", which differ by {forward.spread:.0%}" if forward.blocks_worked > 1 else ""
    return (
        f"forward      about {forward.in_pairs:,} tokens in pairs, {forward.on_cpu:,} through the model on a CPU and "
        f"{forward.on_gpu:,} on a GPU: {shared:.2f} for each one computed, as {forward.blocks_worked:,} of "
        f"{forward.blocks:,} blocks show{spread}"
    )


def _gpus(plan: Plan) -> str:
    hours = ", ".join(f"{of.gpu} {_hours(of.hours)}" for of in plan.gpu if of.gpu in SHOWN_GPUS)
    utilisation = plan.gpu[0].utilisation
    return f"time, GPU    stated, not measured ({utilisation:.0%} of dense bfloat16): one {hours}"


def _cpu(cpu: CpuHours) -> str:
    where = f"{_hours(cpu.hours)} on this machine ({cpu.cores} cores)"
    return f"time, CPU    {where} at {cpu.tokens_a_second:,.0f} tokens a second, {cpu.how}"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s" if hours * 3600 >= 1 else "under 1 s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.2%}" for name, share in shares.items()) or "none"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_bytes(size)}" for name, size in sizes.items())


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _number(value: float) -> str:
    for unit in ("", " thousand", " million", " billion"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.3g} trillion"
