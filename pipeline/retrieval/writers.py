"""What writes instructions in an actor: a model of its own, or a server that it speaks to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

from operators.retrieval.answers import Answer, GeneratorProblem
from operators.retrieval.generation_prompt import fill_prompt
from pipeline.engine.resources import threads_here

Inputs = list[dict[str, Any]]  # rows of INPUTS


class Writer(Protocol):
    """What both are."""

    def answers(self, inputs: Inputs, finished: Collection[bytes]) -> Iterator[tuple[bytes, Answer]]:
        """Keys with what was written for those of these inputs that are not finished."""


def make_writer(settings: dict[str, Any], share: dict[str, float]) -> Writer:
    """The writer of an actor that has this `share` of its machine; raises GeneratorProblem, ModelProblem."""
    return _ServerWriter(**settings) if settings["engine"] == "openai" else _ModelWriter(**settings, share=share)


class _ModelWriter:
    """Answers by a model in this process."""

    def __init__(self, *, model: str, version: str, dtype: str, share: dict[str, float], **settings: Any):
        import torch

        from operators.prompts.load_tokenizer import load_tokenizer
        from operators.prompts.template import load_template
        from operators.prompts.tokenise import Encoder
        from operators.retrieval.generator import Generator
        from operators.scoring import models

        torch.set_num_threads(threads_here(int(share["a_node"]), share["gpus"]))
        self._settings = settings
        tokenizer = load_tokenizer(model, version=version)
        device = models.device_of(gpu=share["gpus"] > 0)
        loaded: Any = models.load_model(model, version=version, dtype=dtype, device=device)
        window = models.window(loaded.config)
        self._generator = Generator(
            loaded,
            tokenizer,
            batch_size=settings["together"],
            max_new_tokens=settings["max_new_tokens"],
            temperature=settings["temperature"],
            seed=settings["seed"],
            window=window,
        )
        most = 2**31 - 1 if window is None else window
        self._encoder = Encoder(
            tokenizer,
            load_template("chat", tokenizer),
            append_eos=False,
            max_length=most,
            vocab_size=loaded.get_input_embeddings().weight.shape[0],
        )

    def answers(self, inputs: Inputs, finished: Collection[bytes]) -> Iterator[tuple[bytes, Answer]]:
        """See `Writer.answers`. Batches are cut as if nothing were finished; one of which all is finished is passed over."""
        from operators.retrieval.generator import Request

        encoded = self._encoder.prompts([(_prompt(row["input"], self._settings), "") for row in inputs])
        requests = []
        for row, ids in zip(inputs, encoded, strict=True):
            if isinstance(ids, list) and self._encoder.outside(ids) is None:
                requests.append(Request(row["key"], ids))
            elif row["key"] not in finished:  # this input is to blame: the chat template was tried before
                yield row["key"], Answer(None, True)
        for batch in self._generator.batches(requests):
            if all(request.key in finished for request in batch):
                continue
            for request, answer in zip(batch, self._generator.write(batch), strict=True):
                if request.key not in finished:
                    yield request.key, answer


class _ServerWriter:
    """Answers by a server."""

    def __init__(
        self, *, base_url: str, model: str, api_key_env: str | None, timeout: float, tries: int, **settings: Any
    ):
        from operators.json_server import NoKey, key_of
        from operators.retrieval.chat_server import ChatServer

        try:
            key = key_of(api_key_env)
        except NoKey as problem:
            raise GeneratorProblem(str(problem)) from problem
        self._server = ChatServer(base_url, model, key, timeout, tries)
        self._settings = settings

    def answers(self, inputs: Inputs, finished: Collection[bytes]) -> Iterator[tuple[bytes, Answer]]:
        """See `Writer.answers`."""
        settings = self._settings
        asked = [(row["key"], _prompt(row["input"], settings)) for row in inputs if row["key"] not in finished]
        options = {"temperature": settings["temperature"], "max_tokens": settings["max_new_tokens"]}
        yield from self._server.answers(asked, settings["seed"], options, settings["concurrency"])


def _prompt(input: str, settings: dict[str, Any]) -> str:
    return fill_prompt(settings["prompt"], input, settings["count"], settings["max_input_chars"])
