"""`tss explain`: one row of a published run, with what each token of its output owes to the instruction where the model that
scored it is at hand. Starts no Ray and writes nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from operators.error_text import first_line, one_line
from operators.model_files import ModelProblem, at_hand
from operators.scoring.load_scorer import load_scorer
from pipeline.config import Scorer
from pipeline.errors import BadRequest
from pipeline.inspection import explain_page, explain_words
from pipeline.inspection.explanation import Explanation, explanation_of, with_tokens
from pipeline.inspection.find_row import find_row
from pipeline.inspection.standing import standing_of
from pipeline.interruption import say
from pipeline.preflight import CheckedScorer, check_scorer
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.runs.summary import Summary
from pipeline.storage import files, urls

_CODE_OF_ITS_OWN = (
    "the scorer of this run brings code of its own; accepted: --trust-remote-code, if you trust its author and whoever made "
    "the run"
)


class _NoTokens(Exception):
    """Why figures of tokens are not shown."""


@dataclass(frozen=True)
class Model:
    """With which model tokens are looked at: None, that of the manifest, only where nothing has to be downloaded; or the same
    model by another name or in another folder. `trust_remote_code`: whether its own code may run, if it has any."""

    name: str | None = None
    trust_remote_code: bool = False


def verb(arguments: argparse.Namespace) -> Summary | int:
    """What the command line asks for: lines, coloured where a terminal shows them, or JSON; and a page. Raises as `explain`."""
    model = None if arguments.no_model else Model(arguments.model, arguments.trust_remote_code)
    explanation = explain(arguments.run, arguments.id, model)
    if arguments.html:
        _write_page(arguments.html, explanation)
    if arguments.json:
        return Summary(explanation.run, json.dumps(explanation.as_plain()))
    if not explain_words.coloured_here():
        return Summary(explanation.run, explain_words.as_text(explanation))
    # Made printable text by text: as a whole it would lose its colours.
    return 0 if say(explain_words.as_text(explanation, coloured=True)) else 1


def _write_page(path: str, explanation: Explanation) -> None:
    if urls.is_url(path):
        raise BadRequest("--html: found a URL; accepted: the path of a file on this machine")
    try:
        files.write(str(Path(path).expanduser().absolute()), explain_page.page(explanation).encode())
    except OSError as error:
        raise BadRequest(f"--html: {path}: cannot be written: {first_line(error)}") from error


def explain(path: str, wanted: str, model: Model | None) -> Explanation:
    """The row of a run that an id, the beginning of one, or FILE:LINE means; without a `model` all but its tokens.

    Raises BadRequest where no row or several are meant, DamagedInput where a part is not what was published."""
    _, run = open_run.find_run(path)
    manifest = open_run.read_manifest(run)
    row = find_row(run, manifest, wanted)
    explanation = explanation_of(run, manifest, row, standing_of(run, manifest, row))
    if model is None:
        return replace(explanation, without_tokens="no model was asked for")
    try:
        return _explained(explanation, manifest, row.columns, model)
    except _NoTokens as reason:
        return replace(explanation, without_tokens=str(reason))


def _explained(explanation: Explanation, manifest: Manifest, row: pa.Table, model: Model) -> Explanation:
    """With figures of tokens; raises _NoTokens."""
    from operators.scoring.token_likelihoods import OtherTokens, encode_again, token_likelihoods
    from pipeline.engine.encoder import cached_encoder

    scorer = _scorer_of(manifest, model)
    checked = _checked(manifest, scorer)
    try:
        encoder = cached_encoder(**checked.encoder)
        encoded = encode_again(row, encoder, too_long=scorer.too_long)
        longest = _longest(encoded, encoder.context)
        loaded = load_scorer(checked.model(manifest.scorer.dtype), scorer.batch_tokens, longest)
        tokens = token_likelihoods(encoded, encoder, loaded)
    except OtherTokens as problem:
        raise _NoTokens(f"it is not encoded as when it was scored: {problem}") from problem
    except (
        ModelProblem,
        OSError,
        MemoryError,
        RuntimeError,
    ) as error:  # a GPU without memory, a dtype that a CPU lacks
        raise _NoTokens(f"the model could not score this row here: {one_line(error)}") from error
    device = "the server" if checked.server else loaded.device.type
    return with_tokens(explanation, tokens, device, manifest.scorer.dtype)


def _scorer_of(manifest: Manifest, model: Model) -> Scorer:
    """The run's scorer with the model that is to be loaded, which nothing is downloaded for unless it was named."""
    try:
        asked = Scorer.model_validate(manifest.config["scorer"])
    except (KeyError, ValidationError) as problem:
        raise _NoTokens(f"the manifest does not say which model scored: {one_line(problem)}") from problem
    if asked.trust_remote_code and not model.trust_remote_code:
        raise _NoTokens(_CODE_OF_ITS_OWN)
    if model.name is None and not at_hand(asked.model):
        raise _NoTokens(
            f"the model {asked.model!r} is not at hand, neither as a folder nor in the hub's local cache; accepted: "
            "--model with its folder or hub name"
        )
    if model.name is None:
        return asked
    server = asked.server.model_copy(update={"model": asked.server.model or asked.model})
    served = {"server": server} if asked.engine == "server" else {}
    return asked.model_copy(update={"model": model.name, **served})


def _checked(manifest: Manifest, scorer: Scorer) -> CheckedScorer:
    """The scorer, which is the one that the run was scored with."""
    try:
        checked = check_scorer(scorer, manifest.scorer.template_text)
    except BadRequest as problem:
        raise _NoTokens(str(problem)) from problem
    now, then = checked.scorer(manifest.scorer.dtype), manifest.scorer
    if now.fingerprint != then.fingerprint:
        template = "" if now.template_hash == then.template_hash else "; its chat template is another one"
        raise _NoTokens(
            f"the model at hand, {scorer.model!r}, is not the one that scored this run: the fingerprint of model, tokenizer, "
            f"template and dtype is {now.fingerprint}, and the manifest says {then.fingerprint}{template}; its figures would "
            "not be those of this run; accepted: --model with the model that scored, in the version of then"
        )
    return checked


def _longest(encoded: pa.Table, context: Sequence[int]) -> int:
    """Tokens of the longest sequence of encoded rows."""
    return max(
        len(row["target"])
        + max(len(context), len(row["prompt"]), *(len(other["prompt"]) for other in row["alternatives"]), 0)
        for row in encoded.to_pylist()
    )
