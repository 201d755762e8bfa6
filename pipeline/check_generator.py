"""Whether the generator of a request can write, before any work: its model and chat template, or its server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.retrieval.answers import GeneratorProblem
from operators.retrieval.generation_prompt import fill_prompt, prompt_hash
from pipeline.check_server import required_key
from pipeline.config import Alternatives
from pipeline.config_served import Generator
from pipeline.errors import BadRequest
from pipeline.runs.manifest import GeneratorName
from pipeline.storage import files

KEY = "alternatives.generator"
# Of how this project asks a generator and draws what it answers; stored answers of another version are not used.
_VERSION = 1
_TRIES = 2  # of a server that does not answer, before there is any work
_SHOWN_MODELS = 20


@dataclass(frozen=True)
class CheckedGenerator:
    """A generator that is there: how it was asked for, with what is behind its name."""

    asked: Generator
    count: int
    seed: int
    version: str  # that workers load
    identity: str  # of its model, or of what its server says

    def named(self, dtype: str) -> GeneratorName:
        """The generator as the manifest names it."""
        settings = {
            "count": self.count,
            "temperature": self.asked.temperature,
            "max_new_tokens": self.asked.max_new_tokens,
            "max_input_chars": self.asked.max_input_chars,
            "dtype": dtype,
            "seed": self.seed,
        }
        parts = [_VERSION, self.asked.engine, self.identity, self.asked.prompt, settings]
        return GeneratorName(
            model=self.asked.model,
            engine=self.asked.engine,
            revision=self.version,
            fingerprint=files.digest_of(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()),
            prompt_text=self.asked.prompt,
            prompt_hash=prompt_hash(self.asked.prompt),
            settings=settings,
        )

    def actor(self, dtype: str) -> dict[str, Any]:
        """What an actor is made with."""
        asked = self.asked.model_dump()
        openai = asked["engine"] == "openai"
        names = ("base_url", "api_key_env", "timeout", "tries", "concurrency") if openai else ()
        shared = ("engine", "model", "prompt", "temperature", "max_new_tokens", "max_input_chars")
        return {
            **{name: asked[name] for name in (*shared, *names)},
            **({} if openai else {"version": self.version, "dtype": dtype}),
            "count": self.count,
            "seed": self.seed,
            "together": 4 * asked["concurrency"] if openai else asked["batch_size"],
        }


def check_generator(alternatives: Alternatives, seed: int) -> CheckedGenerator | None:
    """The generator that alternatives are to be written by, if they are; raises BadRequest. Runs where workers do."""
    if alternatives.source == "retrieved":
        return None
    asked = alternatives.generator
    version, identity = _of_server(asked) if asked.engine == "openai" else _of_model(asked, alternatives)
    return CheckedGenerator(asked, asked.count or alternatives.k, seed, version, identity)


def _of_server(asked: Generator) -> tuple[str, str]:
    """What a server says is behind a model's name, and what identifies that."""
    from operators.retrieval.chat_server import ChatServer

    key = required_key(asked.api_key_env, KEY)
    server = ChatServer(str(asked.base_url), asked.model, key, min(asked.timeout, 30.0), _TRIES)
    try:
        served = server.models()
    except GeneratorProblem as problem:
        raise BadRequest(
            f"{KEY}.base_url: {problem}; accepted: the URL of a server that runs, with /v1 at its end"
        ) from problem
    if asked.model not in served:
        _require_answer(asked, key, served)
    root = served.get(asked.model, "")
    return root, f"{asked.model} {root}"


def _require_answer(asked: Generator, key: str | None, served: dict[str, str]) -> None:
    """Raise BadRequest where a server answers not as a model that it does not list."""
    from operators.retrieval.chat_server import ChatServer

    names = ", ".join(sorted(served)[:_SHOWN_MODELS]) or "none"
    try:
        answers = ChatServer(str(asked.base_url), asked.model, key, asked.timeout, 1).answers_as()
    except GeneratorProblem as problem:
        raise BadRequest(f"{KEY}.model: {asked.model!r} is not listed (listed: {names}), and {problem}") from problem
    if not answers:
        raise BadRequest(f"{KEY}.model: the server at {asked.base_url} has no {asked.model!r}; accepted: {names}")


def _of_model(asked: Generator, alternatives: Alternatives) -> tuple[str, str]:
    """The version of a model, and what identifies it, once its chat template has been tried."""
    from operators.model_files import MODEL_FILES, files_digest, looks_local
    from operators.prompts.load_tokenizer import load_tokenizer
    from operators.prompts.template import TemplateProblem, load_template
    from operators.prompts.tokenise import Encoder
    from operators.scoring import models

    try:
        version = models.resolve(asked.model)
        tokenizer = load_tokenizer(asked.model, version=version)
        config = models.load_config(asked.model, version=version)
        models.check_weights(asked.model, version, config)
        encoder = Encoder(tokenizer, load_template("chat", tokenizer), append_eos=False, max_length=2**31 - 1)
        trial = fill_prompt(asked.prompt, "Some text.", asked.count or alternatives.k, asked.max_input_chars)
        needed = len(encoder.prompt(trial, "")) + asked.max_new_tokens
    except TemplateProblem as problem:
        raise BadRequest(
            f"{KEY}.model: {asked.model!r}: {_words(problem)}; accepted: an instruction-tuned model"
        ) from problem
    except (models.ModelProblem, ValueError, OSError) as problem:
        raise BadRequest(_words(problem)) from problem
    positions = models.window(config)
    if positions is not None and needed > positions:
        raise BadRequest(
            f"{KEY}.max_new_tokens: found {asked.max_new_tokens}; with its prompt that is {needed:,} tokens or more, "
            f"and {asked.model!r} has {positions:,} positions; set it to at most "
            f"{max(0, positions - needed + asked.max_new_tokens):,}, or take a model with more positions"
        )
    identity = files_digest(Path(asked.model), *MODEL_FILES) if looks_local(asked.model) else f"{asked.model}@{version}"
    return version, identity


def _words(problem: Exception) -> str:
    """A problem that the scorer's loader or template found, as one of the generator."""
    text = str(problem)
    if "trust_remote_code" in text:
        return (
            f"{KEY}.model: it needs code that comes with the model, and a generator's own code never runs; accepted: a "
            "model that transformers has itself, or engine: openai with a server that runs it"
        )
    if "no chat template" in text:
        return "its tokenizer has no chat template"
    return text.replace("scorer.model", f"{KEY}.model") if "scorer.model" in text else f"{KEY}.model: {text}"
