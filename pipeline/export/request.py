"""What `tss export` is asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from operators.prompts import template
from pipeline.errors import BadRequest
from pipeline.export import SCORED, SELECTED
from pipeline.export.shape import TURN_COLUMNS, Shape
from pipeline.export.write import require_free
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.storage import urls
from pipeline.storage.records import Part

FOLDER = "exports"


@dataclass(frozen=True)
class Wanted:
    """What is asked for: see `pipeline/arguments.py`. `seed` None is the run's own."""

    to: str
    kind: str = SELECTED
    suffix: str = "jsonl"
    by_source: bool = False
    weights: bool = False
    resample: int | None = None
    seed: int | None = None
    mark_answer: bool = False
    output: str | None = None


@dataclass(frozen=True)
class Job:
    """A checked request."""

    wanted: Wanted
    run: str
    target: Path
    manifest: Manifest
    parts: list[Part]
    shape: Shape
    seed: int


def checked(path: str, wanted: Wanted) -> Job:
    """The request with all that it needs of the run; raises BadRequest."""
    output, run = open_run.find_run(path)
    manifest = open_run.read_manifest(run)
    target = _target(output, run, wanted)
    require_free(target)
    shape, parts = _shape(manifest, wanted), _parts(run, manifest, wanted.kind)
    return Job(wanted, run, target, manifest, parts, shape, manifest.seed if wanted.seed is None else wanted.seed)


def _target(output: str | None, run: str, wanted: Wanted) -> Path:
    if wanted.output is not None:
        if urls.is_url(wanted.output):
            raise BadRequest(
                "--output: found a URL; accepted: a folder of this machine, which may be copied to a store afterwards"
            )
        return Path(wanted.output).expanduser().absolute()
    if output is None or urls.is_url(output):
        raise BadRequest(f"{run}: does not lie in an output folder of this machine; accepted: this with --output DIR")
    options = [
        *([SCORED] if wanted.kind == SCORED else []),
        *(["weights"] if wanted.weights else []),
        *([f"resample-{wanted.resample}"] if wanted.resample else []),
        *(["by-source"] if wanted.by_source else []),
        *(["marked"] if wanted.mark_answer else []),
        *([wanted.suffix] if wanted.suffix != "jsonl" else []),
    ]
    return Path(urls.join(output, FOLDER, "-".join([urls.name_of(run), wanted.to, *options])))


def _parts(run: str, manifest: Manifest, kind: str) -> list[Part]:
    parts = [record.part for record in open_run.parts_of(run, manifest.files.get(kind, [])) if record.part.rows]
    if not parts:
        raise BadRequest(
            f"{run}: has no {kind} rows"
            + ("; accepted: --kind scored, or a selection with rows" if kind == SELECTED else "")
        )
    return parts


def _shape(manifest: Manifest, wanted: Wanted) -> Shape:
    if wanted.weights and wanted.resample:
        raise BadRequest(
            "--weights and --resample: each weighs the rows, and both would do it twice; accepted: one of them"
        )
    if wanted.seed is not None and not wanted.resample:
        raise BadRequest("--seed: only a draw needs it; accepted: with --resample N")
    if wanted.mark_answer and wanted.to not in ("messages", "sharegpt"):
        raise BadRequest("--mark-answer: it marks turns of conversations; accepted: with --to messages or sharegpt")
    render = _template(manifest) if wanted.to == "completion" else None
    tools = wanted.to in TURN_COLUMNS and "tools" in manifest.columns
    return Shape(
        wanted.to, tools, wanted.weights, wanted.mark_answer, _of_whole_conversations(manifest, wanted), render
    )


def _of_whole_conversations(manifest: Manifest, wanted: Wanted) -> bool:
    """Whether rows are conversations that were selected whole, and nothing is asked that holds of one turn alone."""
    of_turns = wanted.kind == SCORED or wanted.mark_answer or wanted.weights or wanted.resample
    return (
        manifest.config["select"].get("unit") == "conversation"
        and wanted.to in ("messages", "sharegpt")
        and not of_turns
    )


def _template(manifest: Manifest) -> Callable[[str, str], str]:
    """What renders a prompt as the scorer has seen it; raises BadRequest for a chat template, which trainers apply."""
    name = manifest.config["scorer"]["template"]
    if name == template.CHAT:
        raise BadRequest(
            "--to completion: this run was scored with the tokenizer's chat template, which trainers apply themselves; "
            "accepted: prompt-completion, messages, sharegpt or alpaca"
        )
    try:
        return template.from_text(name, manifest.scorer.template_text).render
    except template.TemplateProblem as problem:
        raise BadRequest(f"--to completion: {problem}") from problem
