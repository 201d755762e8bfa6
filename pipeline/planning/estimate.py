"""A plan: what a run would read, score and leave, from a sample of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.prompts.tokenise import Encoder
from operators.rejections import REASONS
from operators.scoring.outline import Outline
from pipeline.config import Config
from pipeline.planning.alternatives import Rules
from pipeline.planning.distinct import Distinct, distinct_of
from pipeline.planning.hazards import hazards_of
from pipeline.planning.hours import cpu_hours, gpu_hours
from pipeline.planning.measured import MeasuredSample, measure_sample
from pipeline.planning.model_corpus import model_corpus
from pipeline.planning.record import Forward, Instructions, Pairs, Plan, Rows, Scorer, Tokens
from pipeline.planning.sample import Sample
from pipeline.planning.space import Amounts, space_of
from pipeline.planning.stored import StoredPairs
from pipeline.planning.work import Cost, How, Worked, work_through
from pipeline.retrieval.blocks import block_count, block_width


@dataclass(frozen=True)
class Subject:
    """What a plan is of: the configuration, and what checks of it gave. `scorer` names it without its parameters, `model` has
    the arguments of `load_model`."""

    config: Config
    encoder: Encoder
    outline: Outline
    scorer: Scorer
    model: dict[str, Any]
    embedder_version: str
    pool_texts: list[str] | None


@dataclass(frozen=True)
class _Corpus:
    """The corpus as the sample shows it."""

    rows: Rows
    unique: float  # rows that would be scored
    tokens: float  # of these
    placed: float  # tokens of all admitted rows
    instructions: Distinct


def make_plan(subject: Subject, sample: Sample, stored: StoredPairs) -> Plan:
    """The plan of a run. Raises ValueError where no row of the sample would be admitted."""
    config = subject.config
    measured = measure_sample(sample, subject.encoder, config.scorer.too_long, config.seed)
    if not len(measured.tokens_N2):
        reasons = sorted((sample.rejected + measured.rejected).items())
        words = "; ".join(f"{name} {count:,}: {REASONS[name]}" for name, count in reasons) or "no rows"
        raise ValueError(
            f"none of {len(sample.rows):,} rows that were looked at can be scored ({words}); `tss run` keeps each with "
            "its place and what was found"
        )
    corpus = _corpus(sample, measured)
    worked = _worked(subject, sample, measured, corpus, stored)
    pairs, forward = _pairs(worked, corpus), _forward(subject, worked, corpus)
    instructions = _instructions(subject, sample, corpus)
    prompt, target = (measured.unique_U2.mean(axis=0)).tolist()
    return Plan(
        k=config.alternatives.k,
        rows=corpus.rows,
        tokens=Tokens(round(prompt * corpus.unique), round(target * corpus.unique), prompt, target),
        instructions=instructions,
        pairs=pairs,
        forward=forward,
        scorer=subject.scorer,
        gpu=gpu_hours(subject.outline.working, forward.on_gpu),
        cpu=cpu_hours(subject.outline, subject.model, config.scorer.max_length, worked.pairs, forward.on_cpu),
        space=space_of(
            Amounts(corpus.unique, pairs.left, corpus.instructions.value),
            worked,
            subject.outline,
            subject.scorer.dtype,
            forward.batch_on_cpu if subject.scorer.dtype == "float32" else forward.batch_on_gpu,
            config.embedder.model,
            subject.embedder_version,
        ),
        hazards=hazards_of(config, sample, measured, subject.encoder, corpus.rows, instructions),
        notes=_notes(config, worked, sample),
    )


def _pairs(worked: Worked, corpus: _Corpus) -> Pairs:
    """The pairs of all rows, from those of the blocks that were worked through."""
    cost, more = worked.cost, corpus.unique / worked.cost.rows
    return Pairs(
        asked=round(cost.asked * more),
        equal=round((cost.asked - cost.pairs) * more),
        distinct=round(cost.pairs * more),
        stored=round((cost.pairs - cost.left) * more),
        left=round(cost.left * more),
    )


def _forward(subject: Subject, worked: Worked, corpus: _Corpus) -> Forward:
    """The tokens of the pairs that are left, and what goes through the model for them."""
    cost, more = worked.cost, corpus.tokens / worked.cost.row_tokens
    in_pairs = more * cost.left_tokens * worked.of_pairs
    on_cpu, on_gpu = (
        max(0.0, in_pairs - more * (cost.left_tokens - tokens) * worked.of_shared)
        for tokens in (cost.left_cpu, cost.left_gpu)
    )
    batch_cpu, batch_gpu = _batches(subject)
    return Forward(
        in_pairs=round(in_pairs),
        on_cpu=round(on_cpu),
        on_gpu=round(on_gpu),
        batch_on_cpu=batch_cpu,
        batch_on_gpu=batch_gpu,
        shared_prefixes=subject.outline.packed,
        blocks_worked=len(worked.costs),
        blocks=max(worked.of, block_count(round(corpus.placed), subject.config.alternatives.k)),
        spread=_spread(worked.costs),
    )


def _corpus(sample: Sample, measured: MeasuredSample) -> _Corpus:
    """Counts of the whole corpus."""
    laid_out = sum(row.example is not None for row in sample.rows) / len(sample.rows)
    admitted = sample.corpus * laid_out * measured.admitted_share
    seen = measured.rows
    groups = [row.group for row in seen]
    all_groups = sample.groups if sample.whole else sample.all_groups
    unique = distinct_of([row.id for row in seen], groups, all_groups, admitted)
    instructions = distinct_of([row.key for row in seen], groups, all_groups, admitted)
    # Of rows that were not tokenised some are rejected.
    tokenised = len(measured.tokens_N2)
    good = (tokenised + (len(seen) - tokenised) * measured.admitted_share) / len(seen) if sample.whole else 1.0
    low, scored, high = (min(admitted, number * good) for number in (unique.low, unique.value, unique.high))
    rejected = {name: count / len(sample.rows) for name, count in sample.rejected.items()}
    for name, count in measured.rejected.items():
        rejected[name] = rejected.get(name, 0.0) + laid_out * count / max(1, measured.tokenised)
    placed = admitted * float(measured.tokens_N2.sum(axis=1).mean())
    tokens = scored * float(measured.unique_U2.sum(axis=1).mean())  # duplicates may be longer than other rows
    rows = Rows(
        corpus=round(sample.corpus),
        exact=sample.whole,
        how=sample.how if tokenised == len(seen) else f"{sample.how}, {measured.tokenised:,} of them tokenised",
        sampled=len(sample.rows),
        admitted=round(admitted),
        duplicates=round(admitted - scored),
        scored=round(scored),
        scored_low=round(low),
        scored_high=round(high),
        rejected_share=sum(rejected.values()),
        rejected=dict(sorted(rejected.items())),
    )
    return _Corpus(rows, scored, tokens, placed, instructions)


def _worked(subject: Subject, sample: Sample, measured: MeasuredSample, corpus: _Corpus, stored: StoredPairs) -> Worked:
    """Some blocks of the model of the corpus."""
    wanted = subject.config.alternatives
    tokens = round(corpus.placed)
    width = block_width(tokens, wanted.k)
    model = model_corpus(
        measured.rows,
        whole=sample.whole,
        corpus=corpus.unique,
        distinct=corpus.instructions.value,
        pool_texts=subject.pool_texts,
    )
    batch_cpu, batch_gpu = _batches(subject)
    how = How(batch_cpu, batch_gpu, subject.outline.packed, subject.config.scorer.too_long)
    rules = Rules(wanted.k, wanted.paraphrase_max, wanted.same_task)
    return work_through(model, subject.encoder, rules, how, stored, width)


def _batches(subject: Subject) -> tuple[int, int]:
    """Tokens of a batch on a CPU and on a GPU."""
    asked = subject.config.scorer.batch_tokens
    if isinstance(asked, int):
        return asked, asked
    return subject.outline.batch_tokens("cpu"), subject.outline.batch_tokens("cuda")


def _instructions(subject: Subject, sample: Sample, corpus: _Corpus) -> Instructions:
    distinct = corpus.instructions
    pool = round(distinct.value) if subject.pool_texts is None else len(set(subject.pool_texts))
    return Instructions(
        distinct=round(distinct.value),
        low=round(distinct.low),
        high=round(distinct.high),
        exact=sample.whole,
        pool=pool,
    )


def _spread(costs: list[Cost]) -> float:
    """By how much blocks differ in what a token of a row costs, as a share of the mean."""
    ratios = np.array([cost.cpu / cost.row_tokens for cost in costs if cost.row_tokens])
    return float((ratios.max() - ratios.min()) / ratios.mean()) if len(ratios) > 1 else 0.0


def _notes(config: Config, worked: Worked, sample: Sample) -> list[str]:
    """What the figures leave out."""
    notes = []
    if config.scorer.engine == "server":
        notes.append("the scorer is behind a server: hours and memory of scoring are those of its machine, not these")
    if config.select.mode == "bounded":
        notes.append("select.mode: bounded scores fewer pairs than these: the figures are the most that it may take")
    if config.alternatives.source != "retrieved":
        notes.append(
            f"alternatives.source: {config.alternatives.source}: retrieved ones stand for written ones here, and what the "
            "generator takes is not in these figures"
        )
    if not sample.whole:
        notes.append(
            "the alternatives of the sample are its own instructions, which are fewer and less alike than those of the corpus: "
            "of what rows share, some is not seen"
        )
    if worked.cost.alone:
        notes.append(f"{worked.cost.alone / worked.cost.rows:.1%} of the rows have no alternative, and so no score")
    return notes
