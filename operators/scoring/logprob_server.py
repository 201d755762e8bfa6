"""A server asked for the log-probabilities of a prompt's tokens: vLLM's `prompt_logprobs`, or SGLang's `/generate`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from operators.json_server import JsonServer, Refused
from operators.scoring.batching import Ids

Protocol = Literal["vllm", "sglang"]
SECTION = "scorer.server"
ACCEPTED = "accepted: vLLM (prompt_logprobs of /v1/completions) or SGLang (return_logprob of /generate)"
_MOST = 1e-3  # a log-probability, rounded
_LEAST = -9999.0  # what vLLM writes for minus infinity


class ServerProblem(RuntimeError):
    """A server that cannot score, in words for the person who chose it."""


@dataclass(frozen=True)
class TokenLogprob:
    """What a server says of one token of a prompt: its id, what the id stands for (None: not said), and its log-probability in
    nats given all before it."""

    id: int
    text: str | None
    logprob: float


class LogprobServer:
    """A server asked for log-probabilities of given ids under `model`; `protocol` None: not known yet (`find_protocol`)."""

    def __init__(self, server: JsonServer, model: str, protocol: Protocol | None = None):
        self._server, self._model, self.protocol = server, model, protocol

    def find_protocol(self, ids: Ids) -> None:
        """Take the first protocol in which the server answers; raises ServerProblem where there is none."""
        why = []
        for protocol in ("vllm", "sglang"):
            self.protocol = protocol
            try:
                self.logprobs(ids, 1)
                return
            except (Refused, ServerProblem) as problem:
                why.append(f"{protocol}: {problem}")
        raise self._server.problem_of(f"tells no log-probabilities of a prompt's tokens ({'; '.join(why)}); {ACCEPTED}")

    def logprobs(
        self, ids: Ids, first: int, stopped: threading.Event | None = None, *, texts: bool = False
    ) -> list[TokenLogprob]:
        """Of the ids from place `first` (at least 1) on, with what they stand for where `texts`. Raises ServerProblem, and
        Refused for ids that the server does not take."""
        asked, event = [int(id) for id in ids], stopped or threading.Event()
        try:
            vllm = self.protocol == "vllm"
            tokens = self._of_vllm(asked, first, event) if vllm else self._of_sglang(asked, first, event, texts)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._server.problem_of(
                f"gives answers without log-probabilities of the prompt ({type(error).__name__}: {error}); {ACCEPTED}"
            ) from error
        if [token.id for token in tokens] != asked[first:]:
            raise self._server.problem_of(
                f"tells of other tokens than it was asked for: {len(tokens):,} of {len(asked) - first:,}, or other ids"
            )
        if not all(token.logprob <= _MOST for token in tokens):  # of no number too
            raise self._server.problem_of(f"gives numbers that are no log-probabilities; {ACCEPTED}")
        return [replace(token, logprob=-inf) if token.logprob <= _LEAST else token for token in tokens]

    def _of_vllm(self, ids: list[int], first: int, stopped: threading.Event) -> list[TokenLogprob]:
        body = {
            "model": self._model,
            "prompt": ids,
            "max_tokens": 1,  # it takes no 0
            "temperature": 0,
            "prompt_logprobs": 0,  # of the tokens themselves alone
            "stream": False,
        }
        (choice,) = self._server.ask("completions", body, stopped)["choices"]
        by_place = choice["prompt_logprobs"]
        if len(by_place) != len(ids):
            raise ValueError(f"{len(by_place):,} entries for {len(ids):,} ids")
        entries = [by_place[place][str(id)] for place, id in enumerate(ids) if place >= first]
        return [
            TokenLogprob(id, entry.get("decoded_token"), float(entry["logprob"]))
            for id, entry in zip(ids[first:], entries, strict=True)
        ]

    def _of_sglang(self, ids: list[int], first: int, stopped: threading.Event, texts: bool) -> list[TokenLogprob]:
        body = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": first - 1,  # the first token from there on has none
            "return_text_in_logprobs": texts,
            "stream": False,
        }
        root = self._server.base_url.rstrip("/").removesuffix("/v1")
        answered = replace(self._server, base_url=root).ask("generate", body, stopped)
        _, *entries = answered["meta_info"]["input_token_logprobs"]
        return [TokenLogprob(int(id), text, float(logprob)) for logprob, id, text in entries]
