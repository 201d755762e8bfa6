"""A generator behind a server that speaks the OpenAI chat-completions protocol, over HTTP."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from operators.json_server import JsonServer, Refused, answers_to
from operators.retrieval.answers import Answer, GeneratorProblem

_TRIAL = "Say yes."


@dataclass(frozen=True)
class ChatServer:
    """A server at `base_url`, such as http://host:8000/v1, asked for a model with a key, if it wants one.

    A try may take `timeout` seconds, and a server that is busy, fails or does not answer is tried `tries` times.
    """

    base_url: str
    model: str
    key: str | None
    timeout: float
    tries: int

    def __repr__(self) -> str:
        return f"ChatServer({self.base_url!r}, {self.model!r})"  # never the key

    @property
    def _server(self) -> JsonServer:
        return JsonServer(
            self.base_url, self.key, self.timeout, self.tries, "alternatives.generator", problem=GeneratorProblem
        )

    def models(self) -> dict[str, str]:
        """The names of the models that it serves, each with what the server says is behind it; raises GeneratorProblem."""
        return {name: str(model.get("root") or "") for name, model in self._server.models().items()}

    def answers_as(self) -> bool:
        """Whether the model answers, though the server may not list it: some list what they have loaded, and load what they are
        asked for. Raises GeneratorProblem."""
        try:
            self._complete(_TRIAL, 0, {"max_tokens": 1}, threading.Event())
        except Refused:
            return False
        return True

    def answer(self, prompt: str, seed: int, settings: dict[str, Any], stopped: threading.Event) -> Answer:
        """What the model writes; a prompt that the server takes to be wrong is refused, unless it takes none. Raises
        GeneratorProblem."""
        try:
            return self._complete(prompt, seed, settings, stopped)
        except Refused as refusal:
            try:
                self._complete(_TRIAL, seed, settings, stopped)
            except Refused:
                raise self._server.problem_of(
                    f"refuses every request: {refusal}; accepted: settings of alternatives.generator that its model "
                    "takes"
                ) from refusal
            return Answer(None, True)

    def answers(
        self, requests: Sequence[tuple[bytes, str]], seed: int, settings: dict[str, Any], concurrency: int
    ) -> Iterator[tuple[bytes, Answer]]:
        """Keys of (key, prompt) pairs with what was written, as answers come, at most `concurrency` prompts at once. Raises
        GeneratorProblem, once all that had come before was given out."""

        def ask(request: tuple[bytes, str], stopped: threading.Event) -> Answer:
            key, prompt = request
            return self.answer(prompt, seed_of(seed, key), settings, stopped)

        for (key, _), answer in answers_to(requests, ask, concurrency):
            yield key, answer

    def _complete(self, prompt: str, seed: int, settings: dict[str, Any], stopped: threading.Event) -> Answer:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "seed": seed, "stream": False, **settings}
        answered = self._server.ask("chat/completions", body, stopped)
        try:
            choice = answered["choices"][0]
            text = choice["message"]["content"]
            tokens = (answered.get("usage") or {}).get("completion_tokens")
        except (LookupError, TypeError, AttributeError) as error:
            raise self._server.problem_of(
                "gives answers that are no chat completions; accepted: a server that speaks OpenAI's protocol, at "
                "alternatives.generator.base_url"
            ) from error
        text = text if isinstance(text, str) else ""
        text = text.encode("utf-8", "replace").decode()  # JSON may hold half a character
        return Answer(text, choice.get("finish_reason") != "length", tokens if isinstance(tokens, int) else 0)


def seed_of(seed: int, key: bytes) -> int:
    """The seed of one prompt that a server is given: 31 bits, which every server takes."""
    data = b"%d " % seed + key
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little") >> 1
