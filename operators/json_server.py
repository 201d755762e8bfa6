"""A server that is asked over HTTP in JSON, by the standard library: what is tried again, and words for what does not help."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from operators.error_text import first_line

MOST_BYTES = 16 << 20  # of an answer
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries
LONGEST_ASKED_WAIT = 300.0  # that a server may ask for
_BUSY = {408, 409, 425, 429}  # beside 5xx: another try may help
_REFUSALS = {400, 413, 422}  # of this request, unless the server refuses every one


class Refused(Exception):
    """An answer that says that the request is wrong."""


class NoKey(ValueError):
    """An environment variable that holds no key; nothing of it is shown."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that points elsewhere gets neither prompts nor a key there."""

    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class JsonServer:
    """A server at `base_url`, asked with a key, if it wants one. `section` is where the configuration names it, for messages.

    A try may take `timeout` seconds, and a server that is busy, fails or does not answer is tried `tries` times; then `problem`
    is raised, in words.
    """

    base_url: str
    key: str | None
    timeout: float
    tries: int
    section: str
    problem: type[Exception]

    def __repr__(self) -> str:
        return f"JsonServer({self.base_url!r})"  # never the key

    def ask(self, path: str, body: dict[str, Any] | None, stopped: threading.Event) -> Any:
        """The JSON of an answer, of POST where there is a body. Raises `problem` where the server cannot be asked, Refused for
        a wrong request; `stopped` ends its waiting."""
        why = ""
        for attempt in range(self.tries):
            try:
                return json.loads(self._send(path, body))
            except urllib.error.HTTPError as error:
                why = _words_of(error, self.key)
                if error.code in _REFUSALS:
                    raise Refused(why) from error
                if error.code not in _BUSY and error.code < 500:
                    raise self.problem_of(f"answers {why}{self._advice(error.code)}") from error
                asked = error.headers.get("Retry-After") if error.headers else None
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                why, asked = first_line(error), None
                if isinstance(error, json.JSONDecodeError):
                    why = f"what it sends is no JSON ({why}); does {self.section}.base_url end in /v1?"
            if attempt + 1 < self.tries and stopped.wait(_seconds_to_wait(attempt, asked)):
                break
        raise self.problem_of(
            f"does not answer, after {self.tries} tries: {why}; is it up? {self.section}.timeout and tries say how long it is "
            "waited for"
        )

    def models(self) -> dict[str, dict[str, Any]]:
        """What the server says of each model that it serves, by name; raises `problem`."""
        try:
            listed = self.ask("models", None, threading.Event())
            return {str(model["id"]): dict(model) for model in listed["data"]}
        except (LookupError, TypeError, ValueError) as error:
            raise self.problem_of("lists no models at /models as OpenAI's protocol has them") from error
        except Refused as refusal:
            raise self.problem_of(f"does not list its models: {refusal}") from refusal

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

    def problem_of(self, what: str) -> Exception:
        """What is raised of this server."""
        if self.key:
            what = what.replace(self.key, "<key>")  # a server may repeat it
        return self.problem(f"the server at {self.base_url} {what}")

    def _advice(self, code: int) -> str:
        """What may help against a status."""
        if code in (401, 403):
            return f"; accepted: a key that it knows, in the environment variable that {self.section}.api_key_env names"
        if code in (301, 302, 303, 307, 308, 404):
            return f"; is {self.section}.base_url right? It mostly ends in /v1"
        return ""


def answers_to(
    requests: Iterable[T], ask: Callable[[T, threading.Event], R], concurrency: int
) -> Generator[tuple[T, R], None, None]:
    """Requests with what `ask` gives for them, as answers come, at most `concurrency` at once. The first error is raised, once
    all that had come before was given out; the event that `ask` is given is set then, and no more is asked."""
    coming, stopped = iter(requests), threading.Event()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as threads:
        under_way: dict[Future[R], T] = {}
        try:
            while True:
                for request in islice(coming, concurrency - len(under_way)):
                    under_way[threads.submit(ask, request, stopped)] = request
                if not under_way:
                    return
                done = wait(under_way, return_when=FIRST_COMPLETED).done
                failed = next((future for future in done if future.exception() is not None), None)
                if failed is not None:  # what is on its way is waited for
                    stopped.set()
                    done = wait(under_way).done
                for future in done:
                    request = under_way.pop(future)
                    if future.exception() is None:
                        yield request, future.result()
                if failed is not None:
                    failed.result()  # raises
        finally:
            stopped.set()


def key_of(variable: str | None) -> str | None:
    """The key that an environment variable of this machine holds; raises NoKey, which shows nothing of it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        what = "holds no key: it has characters that no key has" if key else "is not set"
        raise NoKey(f"the environment variable {variable} {what}")
    return key


def _seconds_to_wait(attempt: int, asked: str | None) -> float:
    """What the server asked for, or twice as long as before by chance: many that wait must not come back at once."""
    if asked is not None:
        with contextlib.suppress(ValueError, TypeError):  # of what is neither seconds nor a date
            seconds = float(asked) if asked.strip().replace(".", "", 1).isdecimal() else _until(asked)
            return min(max(0.0, seconds), LONGEST_ASKED_WAIT)
    return random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)


def _until(date: str) -> float:
    return float(email.utils.parsedate_to_datetime(date).timestamp() - time.time())


def _words_of(error: urllib.error.HTTPError, key: str | None) -> str:
    """Status and, where the server says it, the reason, in one line, without the key, which it may repeat."""
    reason = ""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, RecursionError):
        reason = error.read(1 << 12).decode("utf-8", "replace")
        plain = json.loads(reason)  # what is no JSON is shown as it is
        for name in ("error", "message", "detail"):
            plain = plain.get(name, plain) if isinstance(plain, dict) else plain
        reason = plain if isinstance(plain, str) else reason
    words = " ".join(f"{error.code} {error.reason}: {reason}".split())
    return (words.replace(key, "<key>") if key else words)[:300]
