"""Everything about a request that can be known to be wrong before any work starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from operators.prompts.load_tokenizer import choice_of, load_tokenizer
from operators.prompts.template import (
    Template,
    TemplateProblem,
    bos_opens_turns,
    load_template,
    source_of,
    try_template,
)
from operators.schema import SCORED
from operators.selection import filter
from pipeline.check_generator import CheckedGenerator, check_generator
from pipeline.check_server import check_scorer_server
from pipeline.config import Config, Scorer
from pipeline.errors import BadRequest
from pipeline.reading.collect import COLUMN_CHARS, COLUMNS_KEPT
from pipeline.runs.manifest import ScorerName
from pipeline.selection.choose import SCORE_ANEW
from pipeline.storage import files

SERVED = "served"  # the dtype of a scorer behind a server, which does not say it


@dataclass(frozen=True)
class CheckedScorer:
    """What the checks of a scorer give: settings for an encoder, and what identifies it once its dtype is known."""

    encoder: dict[str, Any]
    identity: str  # of the scorer, but for its dtype
    template_hash: str
    server: dict[str, Any] | None  # of `check_scorer_server`, where the model is behind one

    def model(self, dtype: str) -> dict[str, Any]:
        """Settings for `load_model` on a worker, or `server` alone."""
        if self.server is not None:
            return {"server": self.server}
        asked = self.encoder
        return {
            "name": asked["model"],
            "version": asked["version"],
            "dtype": dtype,
            "trust_remote_code": asked["trust_remote_code"],
        }

    def scorer(self, dtype: str) -> ScorerName:
        """The scorer as the manifest names it."""
        return ScorerName(
            model=self.encoder["model"],
            fingerprint=files.digest_of(f"{self.identity} {dtype}".encode()),
            dtype=dtype,
            template_text=self.encoder["template_text"],
            template_hash=self.template_hash,
        )


@dataclass(frozen=True)
class Checked(CheckedScorer):
    """What all checks of models give."""

    embedder: str  # its fingerprint
    embedder_version: str  # that workers load
    generator: CheckedGenerator | None = None  # where alternatives are written


def read_template(name: str) -> str:
    """The source of a template, where there is one to read; raises BadRequest."""
    try:
        return source_of(name)
    except TemplateProblem as problem:
        raise BadRequest(f"scorer.template: {problem}") from problem


def check_models(config: Config, template_text: str) -> Checked:
    """Load tokenizer and configuration, try the template, and ask for embedder and generator; raises BadRequest."""
    from operators.retrieval.embedder import fingerprint, resolve_embedder

    with _problems_as_bad_requests():
        embedder_version = resolve_embedder(config.embedder.model)
        embedder = fingerprint(config.embedder.model, embedder_version)
    scorer = check_scorer(config.scorer, template_text)
    check_shards(config, scorer)
    return Checked(
        **vars(scorer),
        embedder=embedder,
        embedder_version=embedder_version,
        generator=check_generator(config.alternatives, config.seed),
    )


def check_shards(config: Config, scorer: CheckedScorer) -> None:
    """Raise BadRequest where scorers have several GPUs each, and the model is not one that can be split over them."""
    from operators.scoring import models
    from operators.scoring.sharding import sharding_problem

    gpus = config.ray.gpus_per_scorer
    if gpus == "auto" or gpus <= 1 or scorer.server is not None:
        return
    asked = scorer.encoder
    loading = {"version": asked["version"], "trust_remote_code": asked["trust_remote_code"]}
    model = models.load_config(asked["model"], **loading)
    if problem := sharding_problem(model, int(gpus), trust_remote_code=asked["trust_remote_code"]):
        raise BadRequest(f"ray.gpus_per_scorer: found {gpus:g}, and of {asked['model']!r} {problem}")


def check_scorer(scorer: Scorer, template_text: str) -> CheckedScorer:
    """Load tokenizer and configuration, look at the weights' headers or try the server, and try the template; raises
    BadRequest."""
    from operators.scoring import models

    with _problems_as_bad_requests():
        version = models.resolve(scorer.model)
        loading: dict[str, Any] = {"version": version, "trust_remote_code": scorer.trust_remote_code}
        tokenizer = load_tokenizer(scorer.model, **loading)
        model = models.load_config(scorer.model, **loading)
        models.check_kind(scorer.model, model, trust_remote_code=scorer.trust_remote_code)
        if scorer.engine == "transformers":
            models.check_weights(scorer.model, version, model, trust_remote_code=scorer.trust_remote_code)
        template = _tried_template(scorer, tokenizer, template_text)
        opens_turns = bos_opens_turns(tokenizer)
    _check_limits(scorer, tokenizer, template, models.window(model))
    server = check_scorer_server(scorer, tokenizer) if scorer.engine == "server" else None
    return CheckedScorer(
        encoder={
            "model": scorer.model,
            **loading,
            "template": scorer.template,
            "template_text": template.text,
            "chat": json.dumps(scorer.chat, sort_keys=True),
            "append_eos": scorer.append_eos,
            "max_length": scorer.max_length,
            "vocab_size": _vocab_size(model),
            "bos_opens_turns": opens_turns,
            "chosen": choice_of(tokenizer),
        },
        identity=models.identity(
            scorer.model,
            version,
            tokenizer,
            template_hash=template.hash,
            append_eos=scorer.append_eos,
            trust_remote_code=scorer.trust_remote_code,
            served=None if server is None else f"{server['model']} {server['root']}",
        ),
        template_hash=template.hash,
        server=server,
    )


@contextmanager
def _problems_as_bad_requests() -> Iterator[None]:
    """Raise what models and templates raise as BadRequest, which names the key."""
    from operators.retrieval.embedder import EmbedderProblem
    from operators.scoring.models import ModelProblem

    try:
        yield
    except (EmbedderProblem, ModelProblem) as problem:
        raise BadRequest(str(problem)) from problem
    except TemplateProblem as problem:
        raise BadRequest(f"scorer.template: {problem}") from problem
    except ValueError as problem:
        raise BadRequest(f"scorer.model: {problem}") from problem
    except OSError as problem:  # of a name that no file can have
        raise BadRequest(
            f"scorer.model or embedder.model cannot be looked for: {problem}; accepted: a folder that this user may "
            "read, or a hub name (owner/name)"
        ) from problem


def _tried_template(scorer: Scorer, tokenizer: Any, text: str) -> Template:
    """A template that renders a prompt of which the tokenizer makes something; raises TemplateProblem, ValueError."""
    from operators.prompts.tokenise import empty_context, encode_prompts

    template = load_template(scorer.template, tokenizer, text, scorer.chat)
    prompt, *_ = try_template(template)
    if not encode_prompts(tokenizer, [prompt])[0]:
        raise TemplateProblem(
            f"{template.name!r} renders an empty prompt; accepted: a template that shows the instruction, such as "
            "alpaca"
        )
    empty_context(tokenizer)
    return template


def _check_limits(scorer: Scorer, tokenizer: Any, template: Template, positions: int | None) -> None:
    """Raise BadRequest where a model of so many positions, or its tokenizer, cannot do what is asked for."""
    if scorer.append_eos and not template.end and tokenizer.eos_token_id is None:
        raise BadRequest("scorer.append_eos: the tokenizer has no EOS token; set it to false")
    if positions is not None and scorer.max_length > positions:
        raise BadRequest(
            f"scorer.max_length: found {scorer.max_length}, and {scorer.model!r} has {positions} positions; "
            f"set it to at most {positions}"
        )


def _vocab_size(model: Any) -> int | None:
    """How many ids a model knows, or None where its configuration does not say."""
    size = getattr(model.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def check_quota(config: Config, sources: set[str]) -> None:
    """Raise BadRequest where a quota names a source that the run does not have."""
    for source in config.select.quota.get("source", {}):
        if source not in sources:
            raise BadRequest(f"select.quota.source.{source}: no such source; accepted: {', '.join(sorted(sources))}")


def require_columns(config: Config, keys: list[str]) -> None:
    """Raise BadRequest where a score, a filter, a cap or a quota names a column that neither the scored table nor any row has.
    Of names that may have been left out of `keys` nothing is known: of longer ones, and of any where there are COLUMNS_KEPT."""
    if len(keys) >= COLUMNS_KEPT:
        return
    named = config.select.columns()
    accepted = [*SCORED.names, *keys]
    for name, key in named.items():
        if name not in accepted and len(name) <= COLUMN_CHARS:
            raise BadRequest(f"{key}: no column {name!r}; accepted: {', '.join(accepted)}")


def require_numbers(config: Config, keys: list[str], numbers: set[str]) -> None:
    """Raise BadRequest where a score is a column of the rows' own in which no row holds a number."""
    for name in config.select.score_columns():
        if name in keys and name not in SCORED.names and name not in numbers:
            raise BadRequest(
                f"select.score: found {name!r}, a column of the rows in which none holds a number; accepted: "
                f"{', '.join([*filter.SCORE_CHOICES, *sorted(numbers)])}"
            )


def require_clusters(config: Config, earlier: dict[str, Any]) -> None:
    """Raise BadRequest where a selection needs clusters and `earlier`, the configuration of its run, knew none."""
    if "clusters" not in earlier.get("alternatives", {}) and "cluster" in config.select.columns():
        raise BadRequest("select: needs the column cluster, which this run was made without; `tss run` again makes it")


def require_conversations(config: Config) -> None:
    """Raise BadRequest where conversations are to be selected and no input gives any: of a published run, its own inputs."""
    if config.select.unit == "conversation" and all(item.turns == "last" for item in config.input):
        raise BadRequest(
            "select.unit: found conversation, and no input has turns: each, without which no row knows its conversation; "
            "accepted: example, or a `tss run` with turns: each beside the path of an input"
        )


def require_comparable(config: Config, bounded: int) -> None:
    """Raise BadRequest where a selection cannot be made from a run that has `bounded` rows without a tss_pp."""
    reasons = config.select.beyond_bounds()
    if bounded and reasons and config.select.on_alternatives():
        raise BadRequest(
            f"select: found {' and '.join(reasons)}, which needs the tss_pp of all rows, and {bounded:,} rows of this run have "
            f"none: it was scored with mode: bounded. {SCORE_ANEW}"
        )
