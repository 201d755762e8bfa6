"""A generator behind HTTP: what is sent, what is tried again, and what is told when it does not help."""

import threading
import time

import pytest
from chat_servers import chat_server

from operators import json_server as module
from operators.json_server import NoKey, key_of
from operators.retrieval.answers import Answer, GeneratorProblem
from operators.retrieval.chat_server import ChatServer, seed_of

SETTINGS = {"temperature": 0.7, "max_tokens": 50}
KEY = "sk-a-key-of-nobody"
REQUESTS = [(b"k%d" % i, f"prompt {i}") for i in range(12)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


def asked(served, requests=REQUESTS, concurrency=4, key=None, tries=4):
    server = ChatServer(served.url, "writer", key, 5.0, tries)
    return dict(server.answers(requests, 0, SETTINGS, concurrency))


def test_each_prompt_is_sent_once_with_its_seed_and_no_more_at_a_time_than_may_be():
    def answer(body, number):
        time.sleep(0.01)
        return f"to {body['messages'][0]['content']}"

    with chat_server(answer, key=KEY) as served:
        answers = asked(served, key=KEY)
        assert answers == {key: Answer(f"to {prompt}", True, 7) for key, prompt in REQUESTS}
        assert sorted(served.prompts()) == sorted(prompt for _, prompt in REQUESTS)
        assert 1 < served.most_at_once <= 4 and set(served.keys) == {f"Bearer {KEY}"}
        seeds = {body["messages"][0]["content"]: body["seed"] for body in served.bodies}
        assert seeds == {prompt: seed_of(0, key) for key, prompt in REQUESTS} and len(set(seeds.values())) == 12
        for body in served.bodies:
            assert body["model"] == "writer" and body["temperature"] == 0.7 and body["max_tokens"] == 50
            assert [message["role"] for message in body["messages"]] == ["user"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(status):
    with chat_server(lambda body, number: (status, {}) if number <= 3 else "yes") as served:
        assert asked(served, REQUESTS[:1]) == {b"k0": Answer("yes", True, 7)}
        assert len(served.bodies) == 4


def test_it_waits_as_long_as_the_server_asks():
    with chat_server(lambda body, number: (429, {"Retry-After": "0.3"}) if number == 1 else "yes") as served:
        began = time.monotonic()
        asked(served, REQUESTS[:1])
        assert time.monotonic() - began > 0.2
    in_half_a_minute = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 1 < module._seconds_to_wait(0, in_half_a_minute) <= 30
    assert module._seconds_to_wait(0, "1e9") < 1 and module._seconds_to_wait(0, "soon") < 1
    assert module._seconds_to_wait(0, "99999") == module.LONGEST_ASKED_WAIT and module._seconds_to_wait(0, "-5") < 1
    assert module._seconds_to_wait(50, None) <= module.LONGEST_WAIT


def test_a_server_that_goes_away_is_named_after_all_that_it_had_answered_was_given_out():
    with chat_server(lambda body, number: "yes") as served:
        server = ChatServer(served.url, "writer", None, 5.0, 2)
        answers = server.answers(REQUESTS, 0, SETTINGS, 2)
        got = [next(answers)]
    with pytest.raises(GeneratorProblem, match=f"the server at {served.url} does not answer, after 2 tries: .*refused"):
        got += answers
    assert 1 <= len(got) < len(REQUESTS) and all(answer.text == "yes" for _, answer in got)


def test_a_prompt_that_the_server_refuses_is_refused_alone():
    def answer(body, number):
        return (400, {}) if "prompt 3" in body["messages"][0]["content"] else "yes"

    with chat_server(answer) as served:
        answers = asked(served)
    assert answers.pop(b"k3") == Answer(None, True) and {answer.text for answer in answers.values()} == {"yes"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "refuses every request: 400 Bad Request: status 400"),
        (401, "answers 401 Unauthorized.*api_key_env names"),
        (404, "answers 404 Not Found.*base_url right"),
        (302, "answers 302.*base_url right"),
        (503, "does not answer, after 4 tries: 503 Service Unavailable: status 503"),
    ],
)
def test_what_no_other_try_helps_is_told_without_the_key(status, words):
    headers = {"Location": "http://127.0.0.1:9/elsewhere"} if status == 302 else {}
    with chat_server(lambda body, number: (status, headers), key=KEY) as served:
        with pytest.raises(GeneratorProblem, match=words) as problem:
            asked(served, REQUESTS[:1], key=KEY)
        assert KEY not in str(problem.value) and f"at {served.url} " in str(problem.value)
        assert len(served.bodies) == {400: 2, 503: 4}.get(status, 1)
    assert KEY not in repr(ChatServer(served.url, "writer", KEY, 1.0, 1))


def test_an_answer_that_was_cut_off_or_is_none_is_told():
    with chat_server(lambda body, number: ["cut \ud800", "length"] if number == 1 else [None, "stop"]) as served:
        assert asked(served, REQUESTS[:1]) == {b"k0": Answer("cut ?", False, 7)}
        assert asked(served, REQUESTS[:1]) == {b"k0": Answer("", True, 7)}


def test_what_is_no_answer_of_the_protocol_is_a_problem(monkeypatch):
    server = ChatServer("http://127.0.0.1:9/v1", "writer", None, 1.0, 2)
    for body, words in (
        (b"<html>", "does not answer, after 2 tries"),
        (b"[]", "no chat completions"),
        (b"{}", "no chat comp"),
    ):
        monkeypatch.setattr(module.JsonServer, "_send", lambda self, path, asked, body=body: body)
        with pytest.raises(GeneratorProblem, match=words):
            server.answer("prompt", 0, SETTINGS, threading.Event())
        with pytest.raises(GeneratorProblem):
            server.models()


def test_the_key_comes_from_the_environment(monkeypatch):
    assert key_of(None) is None
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert key_of("SOME_KEY") == KEY
    for bad in ("", "a\nb", "schlüssel"):
        monkeypatch.setenv("SOME_KEY", bad)
        with pytest.raises(NoKey, match="SOME_KEY") as problem:
            key_of("SOME_KEY")
        assert not bad or bad not in str(problem.value)
