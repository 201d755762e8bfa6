"""`tss plan`: what a run of a configuration would take. It checks what `tss run` checks, starts no Ray and writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from operators.error_text import first_line
from pipeline import preflight
from pipeline.config import Config
from pipeline.engine.encoder import cached_encoder
from pipeline.engine.job import once
from pipeline.engine.resources import require_gpus
from pipeline.engine.session import is_local
from pipeline.errors import BadRequest, RunFailed
from pipeline.planning.record import Hazard, Plan, Scorer
from pipeline.planning.sample import Sample, take_sample
from pipeline.planning.stored import StoredPairs, stored_pairs
from pipeline.planning.words import in_three_lines
from pipeline.preflight import SERVED, Checked, read_template
from pipeline.reading.chunks import Chunk
from pipeline.reading.exclude_files import read_excluded
from pipeline.reading.pool_file import read_pool_file
from pipeline.request import Request, check_inputs_and_models
from pipeline.runs.output import check_output, require_apart

if TYPE_CHECKING:
    from operators.scoring.outline import Outline

LONG_HOURS = 1.0  # from which on a run shows its plan
# By what is certain of a run without reading its inputs, so that a small one makes no plan: tokens of a byte of text, bytes of
# text of a packed one, and operations a second of a CPU and of a GPU, each on the safe side.
TOKENS_OF_BYTE, TEXT_OF_PACKED_BYTE = 0.3, 6
CPU_SPEED, GPU_SPEED = 2e10, 1e13


def plan(config: Config) -> Plan:
    """The plan of a run on this machine. Raises BadRequest where `tss run` would, RunFailed where no row could be scored."""
    from operators.scoring import models

    preflight.require_conversations(config)
    output = check_output(config.output)
    require_apart(output, config.input)
    template_text = read_template(config.scorer.template)
    pool_texts = read_pool_file(config.alternatives.pool) if config.alternatives.pool else None
    read_excluded(config.exclude)
    chunks, checked = check_inputs_and_models(config, template_text)
    require_gpus(config.ray, models.gpu_count())
    dtype = _dtype_here(config)
    stored = stored_pairs(output, checked.scorer(dtype).fingerprint, config.seed)
    return plan_of(config, chunks, checked, dtype, pool_texts, stored)


def _dtype_here(config: Config) -> str:
    """The dtype that a run on this machine would score in."""
    from operators.scoring import models

    if config.scorer.engine == "server":
        return SERVED
    asked = config.scorer.dtype
    device = "cpu" if config.ray.gpus_per_scorer == 0 else models.device_of(gpu=False)
    return asked if asked != "auto" else str(models.resolve_dtype("auto", device)).removeprefix("torch.")


def plan_of(
    config: Config,
    chunks: list[Chunk],
    checked: Checked,
    dtype: str,
    pool_texts: list[str] | None,
    stored: StoredPairs,
) -> Plan:
    """The plan of a request whose checks have passed."""
    from pipeline.planning.estimate import Subject, make_plan  # brings torch, which few drivers need

    asked = checked.encoder
    outline = outline_here(checked)
    sample = take_sample(chunks, config.seed)
    missing = _require_columns(config, sample)
    subject = Subject(
        config=config,
        encoder=cached_encoder(**asked),
        outline=outline,
        scorer=Scorer(asked["model"], dtype, checked.scorer(dtype).fingerprint, outline.parameters, outline.working),
        model=checked.model("float32"),
        embedder_version=checked.embedder_version,
        pool_texts=pool_texts,
    )
    try:
        made = make_plan(subject, sample, stored)
    except ValueError as error:
        raise RunFailed("plan", first_line(error)) from error
    return replace(made, hazards=[*missing, *made.hazards])


def outline_here(checked: Checked) -> Outline:
    """The outline of the scorer."""
    from operators.scoring import models
    from operators.scoring.outline import outline_of

    asked = checked.encoder
    trust = bool(asked["trust_remote_code"])
    config = models.load_config(asked["model"], version=asked["version"], trust_remote_code=trust)
    return outline_of(config, trust_remote_code=trust)


def announce(request: Request) -> None:
    """Show the plan of a run in three lines where it will take over LONG_HOURS."""
    asked = _Asked(
        request.config,
        request.output,
        request.chunks,
        request.checked,
        request.dtype,
        request.pool_texts,
        request.fresh,
        bool(request.pools.gpus_per_scorer),
        request.pools.scorers[1],
    )
    try:
        # Where workers are: the driver of a cluster may not reach inputs and models.
        made = long_plan(asked) if is_local(request.config.ray.address) else once("plan", long_plan, asked)
    except Exception:  # noqa: BLE001 - what is wrong with the request the run says itself, and no plan is worth a run
        return
    for line in in_three_lines(made) if made is not None else []:
        request.reporter.say(line)


@dataclass(frozen=True)
class _Asked:
    """What of a request decides how long its run takes: on GPUs or not, and with how many scorers."""

    config: Config
    output: str
    chunks: list[Chunk]
    checked: Checked
    dtype: str
    pool_texts: list[str] | None
    fresh: bool
    on_gpus: bool
    scorers: int


def long_plan(asked: _Asked) -> Plan | None:
    """The plan of a run that takes over LONG_HOURS; of any other, None, mostly before anything is read."""
    if _certainly_short(asked):
        return None
    stored = StoredPairs()
    if not asked.fresh:
        fingerprint = asked.checked.scorer(asked.dtype).fingerprint
        stored = stored_pairs(asked.output, fingerprint, asked.config.seed)
    made = plan_of(asked.config, asked.chunks, asked.checked, asked.dtype, asked.pool_texts, stored)
    hours = next(of.hours for of in made.gpu if of.gpu == "A100") if asked.on_gpus else made.cpu.hours
    return made if hours / asked.scorers > LONG_HOURS else None


def _certainly_short(asked: _Asked) -> bool:
    """Whether a run takes less than LONG_HOURS for certain, by the bytes of its inputs and the size of its scorer."""
    if any(chunk.kind == "hub" for chunk in asked.chunks):
        return False
    sizes = {(chunk.uri, chunk.kind, chunk.compression): chunk.size for chunk in asked.chunks}
    text = sum(
        size * (TEXT_OF_PACKED_BYTE if packed or kind in ("parquet", "lance") else 1)
        for (_, kind, packed), size in sizes.items()
    )
    tokens = TOKENS_OF_BYTE * text * (asked.config.alternatives.k + 2)
    speed = asked.scorers * (GPU_SPEED if asked.on_gpus else CPU_SPEED)
    return 2.0 * outline_here(asked.checked).working * tokens / speed < LONG_HOURS * 3600


def _require_columns(config: Config, sample: Sample) -> list[Hazard]:
    """Columns that the configuration names and no row has: where all rows were read, raise BadRequest as a run does."""
    names, numbers = set[str](), set[str]()
    for row in sample.rows:
        own = json.loads(row.example.extra) if row.example is not None else {}
        names.update(own)
        numbers.update(name for name, value in own.items() if isinstance(value, (int, float)))
    try:
        preflight.require_columns(config, sorted(names))
        preflight.require_numbers(config, sorted(names), numbers)
    except BadRequest as problem:
        if sample.whole:
            raise
        return [Hazard("missing_column", f"{problem} (in the rows that were looked at)")]
    return []
