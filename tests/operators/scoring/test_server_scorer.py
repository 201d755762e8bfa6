"""A scorer behind a server gives what the model behind it gives here; a server that cannot be one is told."""

import threading

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, random_model
from logprob_servers import logprob_server
from reference import loglik

from operators import json_server
from operators.json_server import JsonServer, Refused
from operators.scoring.logprob_server import SECTION, LogprobServer, ServerProblem
from operators.scoring.server_scorer import ServerScorer, ServerTrial, check_server

TOKENIZER = byte_tokenizer(bos=False)
TEXT = "The old station, at seven in the morning."
IDS = TOKENIZER(TEXT)["input_ids"]
PROTOCOLS = [("vllm",), ("sglang",)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(json_server, "FIRST_WAIT", 0.001)


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


def asked(behind, protocol=None, tries=3):
    return LogprobServer(JsonServer(behind.url, None, 5.0, tries, SECTION, ServerProblem), behind.name, protocol)


def tried(behind, texts=None, special=None):
    server = asked(behind)
    texts = texts or [TOKENIZER.decode([id]) for id in IDS]
    special = special or {0: "<eos>"}
    behind.expected = check_server(server, ServerTrial(IDS, texts, IDS[len(IDS) // 2 :][::-1], special))
    return server


def scorer_behind(behind, concurrency):
    return ServerScorer(tried(behind), concurrency, IDS, behind.expected)


def some_pairs():
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 258, 40).tolist()
    prompts = [[*trunk[:length], *rng.integers(0, 258, 2).tolist()] for length in (3, 40, 20, 1, 40, 9)]
    return prompts, [rng.integers(0, 258, length).tolist() for length in (4, 1, 9, 2, 7, 3)]


@pytest.mark.parametrize("protocols", PROTOCOLS)
def test_it_equals_the_model_that_is_served(llama, protocols):
    prompts, targets = some_pairs()
    expected = [loglik(llama, p, t) for p, t in zip(prompts, targets, strict=True)]
    with logprob_server(llama, TOKENIZER, protocols) as behind:
        scorer = scorer_behind(behind, 1)
        assert scorer._server.protocol == protocols[0]
        behind.ids.clear()
        kept = []
        got = scorer.sums(prompts, targets, keep=lambda rows, sums: kept.append((rows, sums)), every=0)
        assert np.abs(got - expected).max() <= 1e-4
        # Those that begin alike follow each other.
        of_pairs = [ids for ids in behind.ids if ids != IDS]  # which are those of the trial
        assert of_pairs == sorted(p + t for p, t in zip(prompts, targets, strict=True))
        assert scorer.forwarded_tokens == sum(map(len, of_pairs)) and scorer.works()
        assert sorted(int(row) for rows, _ in kept for row in rows) == list(range(6)) and len(kept) > 1
        terms = scorer.logprobs(prompts, targets)
        assert [len(row) for row in terms] == [len(target) for target in targets]
        assert np.abs([row.sum() for row in terms] - got).max() <= 1e-4


def test_what_is_finished_is_not_asked_for_again(llama):
    prompts, targets = some_pairs()
    with logprob_server(llama, TOKENIZER) as behind:
        scorer = scorer_behind(behind, 4)
        whole = scorer.sums(prompts, targets)
        behind.ids.clear()
        finished = np.where([True, False, True, False, True, True], whole, np.nan)
        assert np.array_equal(scorer.sums(prompts, targets, finished=finished), whole)
        assert sorted(ids for ids in behind.ids if ids != IDS) == sorted(prompts[row] + targets[row] for row in (1, 3))


BROKEN = {
    "looks ahead": (lambda ids, logprobs, number: [value - (ids[-1] % 50) / 10 for value in logprobs], "not causal"),
    "of no use twice": (
        lambda ids, logprobs, number: [value - number for value in logprobs],
        "other numbers for the same",
    ),
    "no log-probabilities": (lambda ids, logprobs, number: [-value for value in logprobs], "no log-probabilities"),
    "no numbers": (lambda ids, logprobs, number: [float("nan") for _ in logprobs], "no log-probabilities"),
    "minus infinity": (lambda ids, logprobs, number: [-9999.0 for _ in logprobs], "no finite numbers"),
    "refuses": (lambda ids, logprobs, number: 400, "tells no log-probabilities .*vllm: 400.*sglang: 400"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_cannot_be_a_scorer_is_told(llama, name):
    meddle, words = BROKEN[name]
    with logprob_server(llama, TOKENIZER, meddle=meddle) as behind, pytest.raises(ServerProblem, match=words):
        tried(behind)


def test_another_tokenizer_is_told(llama):
    texts = [TOKENIZER.decode([id + 1]) for id in IDS]
    with logprob_server(llama, TOKENIZER) as behind, pytest.raises(ServerProblem, match="another tokenizer"):
        tried(behind, texts=texts)


def test_other_special_tokens_are_told(llama):
    with (
        logprob_server(llama, TOKENIZER) as behind,
        pytest.raises(ServerProblem, match=r"special token 0 is '<eos>' there"),
    ):
        tried(behind, special={0: "<|im_end|>"})


def test_what_vllm_writes_for_minus_infinity_is_no_number(llama):
    def meddle(ids, logprobs, number):
        return [*logprobs[:-1], -9999.0] if len(ids) == 2 else logprobs

    with logprob_server(llama, TOKENIZER, meddle=meddle) as behind:
        assert scorer_behind(behind, 1).sums([[1]], [[66]])[0] == -np.inf


def test_another_model_behind_the_server_is_noticed_while_it_scores():
    model = random_model("llama")
    kept = []
    with logprob_server(model, TOKENIZER) as behind:
        scorer = scorer_behind(behind, 1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        with pytest.raises(ServerProblem, match=r"another model is behind the server .* than when the run began"):
            scorer.sums(*some_pairs(), keep=lambda rows, sums: kept.append(rows), every=0)
    assert not kept


def test_a_server_that_refuses_everything_by_now_is_noticed(llama):
    refusing = threading.Event()

    def meddle(ids, logprobs, number):
        return 400 if refusing.is_set() and ids == IDS else logprobs

    with logprob_server(llama, TOKENIZER, meddle=meddle) as behind:
        scorer = scorer_behind(behind, 1)
        refusing.set()
        with pytest.raises(ServerProblem, match="refuses what it took when the run began: 400"):
            scorer.sums(*some_pairs())


def test_a_key_that_a_refusal_repeats_is_not_shown(llama, monkeypatch):
    with logprob_server(llama, TOKENIZER, meddle=lambda ids, logprobs, number: 400) as behind:
        http = JsonServer(behind.url, "status", 5.0, 1, SECTION, ServerProblem)  # which the server repeats
        with pytest.raises(Refused) as refused:
            LogprobServer(http, behind.name, "vllm").logprobs(IDS, 1)
        assert "status" not in str(refused.value) and "<key>" in str(refused.value)


def test_a_server_without_either_protocol_is_told(llama):
    words = "tells no log-probabilities of a prompt's tokens .*accepted: vLLM"
    with logprob_server(llama, TOKENIZER, protocols=()) as behind, pytest.raises(ServerProblem, match=words):
        tried(behind)


def test_a_server_that_goes_away_leaves_what_it_had_answered(llama):
    prompts, targets = some_pairs()
    gone = threading.Event()

    def meddle(ids, logprobs, number):
        return 503 if gone.is_set() and number > 10 else logprobs

    kept = []
    with logprob_server(llama, TOKENIZER, ("vllm",), meddle=meddle) as behind:
        scorer = scorer_behind(behind, 1)
        gone.set()
        with pytest.raises(ServerProblem, match="does not answer, after 3 tries: 503"):
            scorer.sums(prompts, targets, keep=lambda rows, sums: kept.extend(rows.tolist()), every=0)
    assert 0 < len(kept) < 6


def test_ids_that_the_server_refuses_are_the_pair_s_fault(llama):
    prompts, targets = some_pairs()

    def meddle(ids, logprobs, number):
        return 400 if len(ids) > 45 else logprobs

    with logprob_server(llama, TOKENIZER, meddle=meddle) as behind:
        scorer = scorer_behind(behind, 2)
        with pytest.raises(ValueError, match="refuses the ids of a pair: 400"):
            scorer.sums(prompts, targets)
        assert scorer.works()


def test_an_answer_of_another_prompt_is_told(llama):
    with logprob_server(llama, TOKENIZER, ("sglang",)) as behind:
        server = asked(behind, "sglang")
        server._of_sglang = lambda ids, first, stopped, texts: LogprobServer._of_sglang(
            server, ids[:-1], first, stopped, texts
        )
        with pytest.raises(ServerProblem, match="tells of other tokens"):
            server.logprobs(IDS, 1)
