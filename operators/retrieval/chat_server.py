"""A generator behind a server that speaks the OpenAI chat-completions protocol, over the standard library's HTTP."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from operators.error_text import first_line
from operators.retrieval.answers import Answer, GeneratorProblem

MOST_BYTES = 16 << 20  # of an answer
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries
LONGEST_ASKED_WAIT = 300.0  # that a server may ask for
_BUSY = {408, 409, 425, 429}  # beside 5xx: another try may help
_REFUSALS = {400, 413, 422}  # of this prompt, unless the server refuses every one
_TRIAL = "Say yes."


class _Refused(Exception):
    """An answer that says that the request is wrong."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that points elsewhere gets neither prompts nor a key there."""

    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


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

    def models(self) -> dict[str, str]:
        """The names of the models that it serves, each with what the server says is behind it; raises GeneratorProblem."""
        try:
            listed = self._ask("models", None, threading.Event())
            return {str(model["id"]): str(model.get("root") or "") for model in listed["data"]}
        except (LookupError, TypeError, AttributeError) as error:
            raise self._problem("lists no models at /models as OpenAI's protocol has them") from error
        except _Refused as refusal:
            raise self._problem(f"does not list its models: {refusal}") from refusal

    def answers_as(self) -> bool:
        """Whether the model answers, though the server may not list it: some list what they have loaded, and load what they are
        asked for. Raises GeneratorProblem."""
        try:
            self._complete(_TRIAL, 0, {"max_tokens": 1}, threading.Event())
        except _Refused:
            return False
        return True

    def answer(self, prompt: str, seed: int, settings: dict[str, Any], stopped: threading.Event) -> Answer:
        """What the model writes; a prompt that the server takes to be wrong is refused, unless it takes none. Raises
        GeneratorProblem."""
        try:
            return self._complete(prompt, seed, settings, stopped)
        except _Refused as refusal:
            try:
                self._complete(_TRIAL, seed, settings, stopped)
            except _Refused:
                raise self._problem(
                    f"refuses every request: {refusal}; accepted: settings of alternatives.generator that its model "
                    "takes"
                ) from refusal
            return Answer(None, True)

    def answers(
        self, requests: Sequence[tuple[bytes, str]], seed: int, settings: dict[str, Any], concurrency: int
    ) -> Iterator[tuple[bytes, Answer]]:
        """Keys of (key, prompt) pairs with what was written, as answers come, at most `concurrency` prompts at once. Raises
        GeneratorProblem, once all that had come before was given out."""
        stopped = threading.Event()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="generate") as threads:
            waiting: dict[Future[Answer], bytes] = {}
            coming = iter(requests)
            try:
                while True:
                    for key, prompt in _few(coming, concurrency - len(waiting)):
                        future = threads.submit(self.answer, prompt, seed_of(seed, key), settings, stopped)
                        waiting[future] = key
                    if not waiting:
                        return
                    done = wait(waiting, return_when=FIRST_COMPLETED).done
                    failed = next((future for future in done if future.exception() is not None), None)
                    if failed is not None:  # no more is asked, and what is on its way is waited for
                        stopped.set()
                        done = wait(waiting).done
                    for future in done:
                        if future.exception() is None:
                            yield waiting.pop(future), future.result()
                    if failed is not None:
                        failed.result()  # raises
            finally:
                stopped.set()

    def _complete(self, prompt: str, seed: int, settings: dict[str, Any], stopped: threading.Event) -> Answer:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "seed": seed, "stream": False, **settings}
        answered = self._ask("chat/completions", body, stopped)
        try:
            choice = answered["choices"][0]
            text = choice["message"]["content"]
            tokens = (answered.get("usage") or {}).get("completion_tokens")
        except (LookupError, TypeError, AttributeError) as error:
            raise self._problem(
                "gives answers that are no chat completions; accepted: a server that speaks OpenAI's protocol, at "
                "alternatives.generator.base_url"
            ) from error
        text = text if isinstance(text, str) else ""
        text = text.encode("utf-8", "replace").decode()  # JSON may hold half a character
        return Answer(text, choice.get("finish_reason") != "length", tokens if isinstance(tokens, int) else 0)

    def _ask(self, path: str, body: dict[str, Any] | None, stopped: threading.Event) -> Any:
        """The JSON of an answer. Raises GeneratorProblem where the server cannot be asked, _Refused for a wrong request."""
        why = ""
        for attempt in range(self.tries):
            try:
                return json.loads(self._send(path, body))
            except urllib.error.HTTPError as error:
                why = _words_of(error)
                if error.code in _REFUSALS:
                    raise _Refused(why) from error
                if error.code not in _BUSY and error.code < 500:
                    raise self._problem(f"answers {why}{_advice(error.code)}") from error
                asked = error.headers.get("Retry-After") if error.headers else None
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                why, asked = first_line(error), None
                if isinstance(error, json.JSONDecodeError):
                    why = f"what it sends is no JSON ({why}); does alternatives.generator.base_url end in /v1?"
            if attempt + 1 < self.tries and stopped.wait(_seconds_to_wait(attempt, asked)):
                break
        raise self._problem(
            f"does not answer, after {self.tries} tries: {why}; is it up? alternatives.generator.timeout and tries say "
            "how long it is waited for"
        )

    def _send(self, path: str, body: dict[str, Any] | None) -> bytes:
        headers = {"Accept": "application/json", "User-Agent": "task-specificity"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/{path}", data, headers)
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self.timeout) as response:
            answered: bytes = response.read(MOST_BYTES + 1)
        if len(answered) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes in one answer")
        return answered

    def _problem(self, what: str) -> GeneratorProblem:
        if self.key:
            what = what.replace(self.key, "<key>")  # a server may repeat it
        return GeneratorProblem(f"the server at {self.base_url} {what}")


def key_of(variable: str | None) -> str | None:
    """The key that an environment variable of this machine holds; raises GeneratorProblem, which shows nothing of it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        what = "holds no key: it has characters that no key has" if key else "is not set"
        raise GeneratorProblem(f"the environment variable {variable} {what}")
    return key


def seed_of(seed: int, key: bytes) -> int:
    """The seed of one prompt that a server is given: 31 bits, which every server takes."""
    data = b"%d " % seed + key
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little") >> 1


def _few(items: Iterator[Any], most: int) -> Iterator[Any]:
    for _ in range(most):
        try:
            yield next(items)
        except StopIteration:
            return


def _seconds_to_wait(attempt: int, asked: str | None) -> float:
    """What the server asked for, or twice as long as before by chance: many that wait must not come back at once."""
    if asked is not None:
        with contextlib.suppress(ValueError, TypeError):  # of what is neither seconds nor a date
            seconds = float(asked) if asked.strip().replace(".", "", 1).isdecimal() else _until(asked)
            return min(max(0.0, seconds), LONGEST_ASKED_WAIT)
    return random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)


def _until(date: str) -> float:
    return float(email.utils.parsedate_to_datetime(date).timestamp() - time.time())


def _words_of(error: urllib.error.HTTPError) -> str:
    """Status and, where the server says it, the reason, in one line."""
    reason = ""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, RecursionError):
        reason = error.read(1 << 12).decode("utf-8", "replace")
        plain = json.loads(reason)  # what is no JSON is shown as it is
        for name in ("error", "message", "detail"):
            plain = plain.get(name, plain) if isinstance(plain, dict) else plain
        reason = plain if isinstance(plain, str) else reason
    return " ".join(f"{error.code} {error.reason}: {reason}".split())[:300]


def _advice(code: int) -> str:
    """What may help against a status."""
    if code in (401, 403):
        return (
            "; accepted: a key that it knows, in the environment variable that alternatives.generator.api_key_env names"
        )
    if code in (301, 302, 303, 307, 308, 404):
        return "; is alternatives.generator.base_url right? It mostly ends in /v1"
    return ""
