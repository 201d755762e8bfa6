"""Log-likelihoods from a model behind a server that tells those of a prompt's tokens: vLLM's `prompt_logprobs`, or SGLang's
`/generate`.

Token ids are sent and never text, so a pair is what it is for a model that is loaded here: the same template, tokenizer and
ids. What is not known of such a model is tried before any work: that its tokens are those of the tokenizer, that it sees none
before it predicts it, and that the same ids give the same numbers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from operators.json_server import JsonServer, NoKey, Refused, key_of
from operators.scoring.batching import Ids

Protocol = Literal["vllm", "sglang"]
SECTION = "scorer.server"
_CHANGED, _SAME = 0.1, 0.1  # mean differences in nats: of a model that looks ahead, and of one number asked for twice
_ALIKE = 0.8  # of the trial's tokens must be called as the tokenizer calls them
ACCEPTED = "accepted: vLLM (prompt_logprobs of /v1/completions) or SGLang (return_logprob of /generate)"


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

    def served(self) -> dict[str, dict[str, Any]]:
        """What the server says of each model that it serves, by name. Raises ServerProblem."""
        try:
            listed = self._server.ask("models", None, threading.Event())
            return {str(model["id"]): dict(model) for model in listed["data"]}
        except (LookupError, TypeError, ValueError) as error:
            raise self._server.problem_of("lists no models at /models as OpenAI's protocol has them") from error
        except Refused as refusal:
            raise self._server.problem_of(f"does not list its models: {refusal}") from refusal

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

    def logprobs(self, ids: Ids, first: int, stopped: threading.Event | None = None) -> list[TokenLogprob]:
        """Of the ids from place `first` (at least 1) on. Raises ServerProblem, and Refused for ids that the server does not
        take."""
        asked = [int(id) for id in ids]
        ask = self._of_vllm if self.protocol == "vllm" else self._of_sglang
        try:
            tokens = ask(asked, first, stopped or threading.Event())
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._server.problem_of(
                f"gives answers without log-probabilities of the prompt ({type(error).__name__}: {error}); {ACCEPTED}"
            ) from error
        if [token.id for token in tokens] != asked[first:]:
            raise self._server.problem_of(
                f"tells of other tokens than it was asked for: {len(tokens):,} of {len(asked) - first:,}, or other ids"
            )
        return tokens

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

    def _of_sglang(self, ids: list[int], first: int, stopped: threading.Event) -> list[TokenLogprob]:
        body = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": first - 1,  # the first token from there on has none
            "return_text_in_logprobs": True,
            "stream": False,
        }
        root = self._server.base_url.rstrip("/").removesuffix("/v1")
        answered = replace(self._server, base_url=root).ask("generate", body, stopped)
        _, *entries = answered["meta_info"]["input_token_logprobs"]
        return [TokenLogprob(int(id), text, float(logprob)) for logprob, id, text in entries]


def check_server(server: LogprobServer, ids: Sequence[int], texts: Sequence[str], others: Sequence[int]) -> list[float]:
    """Try a server with `ids` of a plain text, of which the tokenizer calls each `texts`, and `others` for the last half of
    them; finds its protocol. The log-probabilities of all ids but the first. Raises ServerProblem where it cannot be the
    scorer."""
    half = len(ids) // 2
    server.find_protocol(ids)
    try:
        once, again = server.logprobs(ids, 1), server.logprobs(ids, 1)
        ahead = server.logprobs([*ids[:half], *others], 1)
    except Refused as refusal:
        raise ServerProblem(f"{SECTION}: the server refuses ids of the tokenizer: {refusal}") from refusal
    numbers, twice, changed = (np.array([token.logprob for token in some]) for some in (once, again, ahead))
    if not np.isfinite(numbers).all() or (numbers > 1e-3).any():
        raise ServerProblem(
            f"{SECTION}: the server gives numbers that are no log-probabilities, such as {numbers.max()}"
        )
    if np.abs(numbers - twice).mean() > _SAME:
        raise ServerProblem(f"{SECTION}: the server gives other numbers for the same tokens each time")
    if np.abs(numbers - changed)[: half - 1].mean() > _CHANGED:
        raise ServerProblem(
            f"{SECTION}: the model is not causal: the likelihood of a token changes with those that follow it"
        )
    called = [token.text for token in once]
    if None in called:
        raise ServerProblem(f"{SECTION}: the server does not say what its ids stand for; {ACCEPTED}")
    alike = sum(_plain(str(some)) == _plain(text) for some, text in zip(called, texts[1:], strict=True))
    if alike < _ALIKE * len(called):
        raise ServerProblem(
            f"{SECTION}: the server has another tokenizer: of {len(called)} ids it calls {alike} as the tokenizer of "
            "scorer.model does; accepted: scorer.model with the tokenizer of the model that is served"
        )
    return [float(number) for number in numbers]


def _plain(text: str) -> str:
    # Servers show the mark of a space, or a space, or nothing.
    return text.replace("\u2581", "").replace("\u0120", "").strip()


class ServerScorer:
    """Sums of target log-probabilities under a model behind a server, in place of a `TargetScorer`. At most `concurrency` pairs
    are asked for at once; those that begin alike follow each other, for the server's cache of prefixes."""

    device: Any = SimpleNamespace(type="server")
    padding_tokens = 0

    def __init__(self, server: LogprobServer, concurrency: int, trial: Sequence[int]):
        self._server, self._concurrency, self._trial = server, concurrency, trial
        self.batch_tokens = concurrency  # pairs, here
        self.forwarded_tokens = 0

    def works(self) -> bool:
        """Whether the server still gives numbers for fixed ids. Raises ServerProblem."""
        try:
            return bool(np.isfinite([token.logprob for token in self._server.logprobs(self._trial, 1)]).all())
        except Refused:
            return False

    def sums(
        self,
        prompts: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        finished: np.ndarray | None = None,
        keep: Any = None,
        every: float = float("inf"),
    ) -> np.ndarray:
        """As `TargetScorer.sums`; raises ServerProblem."""
        result = np.full(len(prompts), np.nan) if finished is None else finished.copy()
        waiting: list[int] = []
        settled = time.monotonic()
        for row, logprobs in self._answers(prompts, targets, np.flatnonzero(np.isnan(result))):
            result[row] = float(np.sum(logprobs))
            waiting.append(row)
            if keep and time.monotonic() - settled >= every:
                keep(np.array(waiting), result[waiting])
                waiting, settled = [], time.monotonic()
        if keep and waiting:
            keep(np.array(waiting), result[waiting])
        return result

    def logprobs(self, prompts: Sequence[Ids], targets: Sequence[Ids]) -> list[np.ndarray]:
        """As `TargetScorer.logprobs`; raises ServerProblem."""
        by_row = dict(self._answers(prompts, targets, np.arange(len(prompts))))
        return [by_row[row].astype(np.float32) for row in range(len(prompts))]

    def _answers(
        self, prompts: Sequence[Ids], targets: Sequence[Ids], rows: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Rows with the log-probabilities [T] of their targets, as answers come. Raises ServerProblem, and ValueError for ids
        that the server refuses, once what had come before was given out."""
        wholes = {int(row): [*map(int, prompts[row]), *map(int, targets[row])] for row in rows}
        coming = iter(sorted(wholes, key=wholes.__getitem__))
        stopped = threading.Event()

        def ask(row: int) -> np.ndarray:
            tokens = self._server.logprobs(wholes[row], len(prompts[row]), stopped)
            return np.array([token.logprob for token in tokens])

        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="score") as threads:
            under_way: dict[Future[np.ndarray], int] = {}
            try:
                while True:
                    while len(under_way) < self._concurrency and (row := next(coming, None)) is not None:
                        under_way[threads.submit(ask, row)] = row
                    if not under_way:
                        return
                    done = wait(under_way, return_when=FIRST_COMPLETED).done
                    failed = next((future for future in done if future.exception() is not None), None)
                    if failed is not None:  # no more is asked, and what is on its way is waited for
                        stopped.set()
                        done = wait(under_way).done
                    for future in done:
                        row = under_way.pop(future)
                        if future.exception() is None:
                            self.forwarded_tokens += len(wholes[row])
                            yield row, future.result()
                    if failed is not None:
                        _raise(failed)
            finally:
                stopped.set()


def scorer_of(server: dict[str, Any]) -> ServerScorer:
    """The scorer behind a server that a request has checked: its URL and settings, the name of the variable with its key, the
    model's name there, the protocol and the ids of the trial. Raises ServerProblem."""
    try:
        key = key_of(server["api_key_env"])
    except NoKey as problem:
        raise ServerProblem(f"{SECTION}.api_key_env: {problem}") from problem
    http = JsonServer(server["base_url"], key, server["timeout"], server["tries"], SECTION, ServerProblem)
    asked = LogprobServer(http, server["model"], server["protocol"])
    return ServerScorer(asked, server["concurrency"], server["trial"])


def _raise(failed: Future[np.ndarray]) -> None:
    try:
        failed.result()
    except Refused as refusal:
        raise ValueError(f"the server refuses the ids of a pair: {refusal}") from refusal
