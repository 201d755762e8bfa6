"""What will hurt: facts of a sample that somebody should know before a run takes hours."""

from __future__ import annotations

from collections import Counter

from operators.prompts.tokenise import Encoder
from pipeline.config import Config
from pipeline.planning.measured import NEAR, MeasuredSample
from pipeline.planning.record import Hazard, Instructions, Rows
from pipeline.planning.sample import Sample

SHARE = 0.01  # of rows, from which on it is worth a line
MOST = 0.5  # of rows that have one output
NEARLY_ALL = 0.8  # of rows that have one instruction
DUPLICATES = 0.2
FEW = 3  # more instructions than k are no choice
TRIED = 20  # rows whose prompts are looked at
SHOWN = 60  # characters of a text


def hazards_of(
    config: Config, sample: Sample, measured: MeasuredSample, encoder: Encoder, rows: Rows, instructions: Instructions
) -> list[Hazard]:
    """All that holds, the worst first."""
    hazards = [Hazard("unreadable", f"{words}; a run fails on this file") for words in sample.unreadable]
    hazards += _rejected(config, rows)
    hazards += _template(measured, encoder)
    hazards += _long(config, measured)
    hazards += _pool(config, instructions)
    hazards += _same(measured)
    if rows.duplicates > DUPLICATES * rows.admitted:
        share = rows.duplicates / rows.admitted
        hazards.append(Hazard("duplicates", f"{share:.0%} of the rows are duplicates, which are scored once"))
    return hazards + _not_taken_off(config)


def _not_taken_off(config: Config) -> list[Hazard]:
    """What a run takes away that a plan does not look for."""
    asked = (["dedup.near"] if config.dedup.near is not None else []) + (["exclude"] if config.exclude else [])
    if not asked:
        return []
    words = f"rows that {' and '.join(asked)} will take away are planned as if they were scored"
    return [Hazard("not_taken_off", words)]


def _rejected(config: Config, rows: Rows) -> list[Hazard]:
    limit = config.max_rejected_fraction
    if rows.rejected_share > limit:
        words = (
            f"{rows.rejected_share:.1%} of the rows would be rejected, and max_rejected_fraction: {limit:g} ends a run"
        )
        return [Hazard("rejected", words)]
    return []


def _long(config: Config, measured: MeasuredSample) -> list[Hazard]:
    longest, policy = config.scorer.max_length, config.scorer.too_long
    hazards = []
    over = measured.rejected["too_long"] / max(1, measured.tokenised)
    if over >= SHARE:
        words = f"{over:.1%} of the rows have more than scorer.max_length: {longest} tokens and would be rejected"
        hazards.append(Hazard("too_long", f"{words} (scorer.too_long: {policy})"))
    near = measured.near / max(1, len(measured.tokens_N2))
    if near >= SHARE:
        words = f"{near:.1%} of the rows have more than {NEAR:.0%} of scorer.max_length: {longest} tokens"
        hazards.append(Hazard("near_max_length", f"{words}, so that few alternatives may fit"))
    return hazards


def _pool(config: Config, instructions: Instructions) -> list[Hazard]:
    k = config.alternatives.k
    if instructions.pool > k + FEW or config.alternatives.source == "generated":
        return []
    words = f"{instructions.pool:,} instructions are offered as alternatives, and alternatives.k is {k}"
    return [Hazard("tiny_pool", f"{words}: rows get nearly all others, or too few; alternatives.pool can offer more")]


def _template(measured: MeasuredSample, encoder: Encoder) -> list[Hazard]:
    """Whether prompts change with the input."""
    with_input = [row.example for row in measured.rows if row.use[0]]
    tried = [
        example
        for example in with_input[:TRIED]
        if encoder.turns(example.instruction, example.messages, example.turn) is None
    ]
    if not tried:
        return []
    plain = encoder.prompts([(example.instruction, example.input) for example in tried])
    other = encoder.prompts([(example.instruction, f"0{example.input}") for example in tried])
    same = sum(some == others for some, others in zip(plain, other, strict=True) if isinstance(some, list))
    if 2 * same < len(tried):
        return []
    share = len(with_input) / len(measured.rows)
    words = f"{share:.0%} of the rows have an input, and scorer.template: {encoder.template.name!r} does not show it"
    return [Hazard("no_input_slot", words)]


def _same(measured: MeasuredSample) -> list[Hazard]:
    hazards = []
    for kind, name, limit, texts in (
        ("same_output", "output", MOST, [row.example.output for row in measured.rows]),
        ("same_instruction", "instruction", NEARLY_ALL, [row.example.instruction for row in measured.rows]),
    ):
        for text, count in Counter(texts).most_common(1):
            if len(texts) > 1 and count >= limit * len(texts):
                shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
                hazards.append(Hazard(kind, f"{count / len(texts):.0%} of the rows have one {name}: {shown!r}"))
    return hazards
