"""Log-likelihoods from a model behind a server that tells those of a prompt's tokens: vLLM's `prompt_logprobs`, or SGLang's
`/generate`.

Token ids are sent and never text, so a pair is what it is for a model that is loaded here: the same template, tokenizer and
ids. What is not known of such a model is tried before any work: that its tokens are those of the tokenizer, that it sees none
before it predicts it, and that the same ids give the same numbers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np

from operators.json_server import JsonServer, NoKey, Refused, answers_to, key_of
from operators.scoring.batching import Ids
from operators.scoring.logprob_server import ACCEPTED, SECTION, LogprobServer, ServerProblem, TokenLogprob

_CHANGED, _SAME = 0.1, 0.1  # mean differences in nats: of a model that looks ahead, and of one number asked for twice
_SAME_MODEL = 0.05  # nats a token: one model differs by less between dtypes, kernels and batches
_ALIKE = 0.8  # of the trial's tokens must be called as the tokenizer calls them


@dataclass(frozen=True)
class ServerTrial:
    """What a server is tried with: `ids` of a plain text, what the tokenizer calls each, others for the last half of them, and
    the special tokens by id."""

    ids: Sequence[int]
    texts: Sequence[str]
    others: Sequence[int]
    special: dict[int, str]


def check_server(server: LogprobServer, trial: ServerTrial) -> list[float]:
    """Try a server and find its protocol: the log-probabilities of all ids of the trial but the first. Raises ServerProblem
    where it cannot be the scorer."""
    ids, half = trial.ids, len(trial.ids) // 2
    server.find_protocol(ids)
    try:
        once, again = server.logprobs(ids, 1, texts=True), server.logprobs(ids, 1)
        ahead = server.logprobs([*ids[:half], *trial.others], 1)
        special = server.logprobs([ids[0], *trial.special], 1, texts=True) if trial.special else []
    except Refused as refusal:
        raise ServerProblem(f"{SECTION}: the server refuses ids of the tokenizer: {refusal}") from refusal
    numbers, twice, changed = (np.array([token.logprob for token in some]) for some in (once, again, ahead))
    if not np.isfinite(numbers).all():
        raise ServerProblem(f"{SECTION}: the server gives no finite numbers for a plain sentence; {ACCEPTED}")
    if np.abs(numbers - twice).mean() > _SAME:
        raise ServerProblem(f"{SECTION}: the server gives other numbers for the same tokens each time")
    if np.abs(numbers - changed)[: half - 1].mean() > _CHANGED:
        raise ServerProblem(
            f"{SECTION}: the model is not causal: the likelihood of a token changes with those that follow it"
        )
    _require_tokenizer(once, special, trial)
    return [float(number) for number in numbers]


def _require_tokenizer(plain: list[TokenLogprob], special: list[TokenLogprob], trial: ServerTrial) -> None:
    """Raise ServerProblem where the server calls ids otherwise than the tokenizer; of special ones it may say nothing."""
    accepted = "accepted: scorer.model with the tokenizer of the model that is served"
    called = [token.text for token in plain]
    if None in called:
        raise ServerProblem(f"{SECTION}: the server does not say what its ids stand for; {ACCEPTED}")
    alike = sum(_plain(str(some)) == _plain(text) for some, text in zip(called, trial.texts[1:], strict=True))
    if alike < _ALIKE * len(called):
        raise ServerProblem(
            f"{SECTION}: the server has another tokenizer: of {len(called)} ids it calls {alike} as the tokenizer of "
            f"scorer.model does; {accepted}"
        )
    for token in special:
        if token.text and _plain(token.text) != _plain(trial.special[token.id]):
            raise ServerProblem(
                f"{SECTION}: the server has another tokenizer: the special token {token.id} is {token.text!r} there and "
                f"{trial.special[token.id]!r} here; {accepted}"
            )


def _plain(text: str) -> str:
    # Servers show the mark of a space, or a space, or nothing.
    return text.replace("\u2581", "").replace("\u0120", "").strip()


class ServerScorer:
    """Sums of target log-probabilities under a model behind a server, in place of a `TargetScorer`. At most `concurrency` pairs
    are asked for at once, in the order of their ids, so that a server's cache of prefixes finds those that begin alike.
    `expected`: what the server gave for the ids of the trial when it was checked."""

    device: Any = SimpleNamespace(type="server")
    padding_tokens = 0

    def __init__(self, server: LogprobServer, concurrency: int, trial: Sequence[int], expected: Sequence[float]):
        self._server, self._concurrency = server, concurrency
        self._trial, self._expected = trial, expected
        self.batch_tokens = self.forwarded_tokens = 0

    def works(self) -> bool:
        """True where the server still gives the numbers that it gave for the ids of the trial; else raises ServerProblem."""
        try:
            now = [token.logprob for token in self._server.logprobs(self._trial, 1)]
        except Refused as refusal:
            raise ServerProblem(
                f"{SECTION}: the server refuses what it took when the run began: {refusal}"
            ) from refusal
        off = difference(now, self._expected)
        if off > _SAME_MODEL:
            raise ServerProblem(
                f"{SECTION}: {other_model(off)} than when the run began; accepted: one model for all of a run"
            )
        return True

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
        with closing(self._answers(prompts, targets, np.flatnonzero(np.isnan(result)))) as answers:
            for row, logprobs in answers:
                result[row] = float(np.sum(logprobs))
                waiting.append(row)
                if keep and time.monotonic() - settled >= every and self.works():
                    keep(np.array(waiting), result[waiting])
                    waiting, settled = [], time.monotonic()
        # Of a server that was away another model may be behind it by now: then nothing of these pairs is kept.
        if waiting and self.works() and keep:
            keep(np.array(waiting), result[waiting])
        return result

    def logprobs(self, prompts: Sequence[Ids], targets: Sequence[Ids]) -> list[np.ndarray]:
        """As `TargetScorer.logprobs`; raises ServerProblem."""
        by_row = dict(self._answers(prompts, targets, np.arange(len(prompts))))
        return [by_row[row].astype(np.float32) for row in range(len(prompts))]

    def _answers(
        self, prompts: Sequence[Ids], targets: Sequence[Ids], rows: np.ndarray
    ) -> Generator[tuple[int, np.ndarray], None, None]:
        """Rows with the log-probabilities [T] of their targets, as answers come. Raises ServerProblem, and ValueError for ids
        that the server refuses, once what had come before was given out."""
        wholes = {int(row): [*map(int, prompts[row]), *map(int, targets[row])] for row in rows}

        def ask(row: int, stopped: threading.Event) -> np.ndarray:
            try:
                tokens = self._server.logprobs(wholes[row], len(prompts[row]), stopped)
            except Refused as refusal:
                raise ValueError(f"the server refuses the ids of a pair: {refusal}") from refusal
            return np.array([token.logprob for token in tokens])

        with closing(answers_to(sorted(wholes, key=wholes.__getitem__), ask, self._concurrency)) as answers:
            for row, logprobs in answers:
                self.forwarded_tokens += len(wholes[row])
                yield row, logprobs


def scorer_of(server: dict[str, Any]) -> ServerScorer:
    """The scorer behind a server that a request has checked: its URL and settings, the name of the variable with its key, the
    model's name there, the protocol and the ids of the trial. Raises ServerProblem."""
    try:
        key = key_of(server["api_key_env"])
    except NoKey as problem:
        raise ServerProblem(f"{SECTION}.api_key_env: {problem}") from problem
    http = JsonServer(server["base_url"], key, server["timeout"], server["tries"], SECTION, ServerProblem)
    asked = LogprobServer(http, server["model"], server["protocol"])
    return ServerScorer(asked, server["concurrency"], server["trial"], server["trial_logprobs"])


def require_same_model(server: dict[str, Any], noted: Sequence[float]) -> None:
    """Raise ServerProblem where the server gives other numbers for the trial than those that were noted with its store."""
    off = difference(server["trial_logprobs"], noted)
    if off > _SAME_MODEL:
        raise ServerProblem(
            f"{SECTION}: {other_model(off)} than the one whose likelihoods are stored in this output, under the name "
            f"{server['model']!r}; accepted: another name of the model there ({SECTION}.model), or another output"
        )


def difference(some: Sequence[float], others: Sequence[float]) -> float:
    """The mean difference of log-probabilities of the same tokens, in nats; infinite where they are not as many."""
    return float(np.abs(np.subtract(some, others)).mean()) if len(some) == len(others) else inf


def other_model(off: float) -> str:
    """That another model is behind the server, in words."""
    return f"another model is behind the server (tokens of a fixed sentence differ by {off:.2g} nats on the mean)"
