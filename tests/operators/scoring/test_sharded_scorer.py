"""A model that is split over processes is the model: its sums are those of one process, and what ends one process ends all."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import random_model
from transformers import AutoConfig

from operators.model_files import ModelProblem
from operators.scoring.load_scorer import load_scorer
from operators.scoring.model_families import SPLIT
from operators.scoring.models import load_model
from operators.scoring.scorer import TargetScorer
from operators.scoring.shard_process import totals_of
from operators.scoring.sharded_scorer import ShardedScorer, ShardsEnded
from operators.scoring.sharding import sharding_problem

pytest.importorskip("accelerate", reason="transformers splits models with it")
RNG = np.random.default_rng(0)
TRUNKS = [RNG.integers(3, 250, length).tolist() for length in (20, 31, 7, 90)]
PROMPTS = [*TRUNKS, *([*trunk, 5, 6] for trunk in TRUNKS)]
TARGETS = [RNG.integers(3, 250, length).tolist() for length in (4, 9, 3, 8, 1, 2, 12, 5)]


@pytest.fixture(scope="module")
def model(model_folder):
    return {"name": str(model_folder), "dtype": "float32"}


@pytest.fixture(scope="module")
def sharded(model, own_ray):
    return ShardedScorer(model, 2, None, 200)


@pytest.fixture(scope="module")
def whole(model):
    return TargetScorer(load_model(**model, device="cpu"), 4096, longest=200)


def test_sums_are_those_of_one_process(sharded, whole):
    kept = []
    sums = sharded.sums(PROMPTS, TARGETS, keep=lambda rows, values: kept.append((rows, values)))
    expected = whole.sums(PROMPTS, TARGETS)
    assert np.abs((sums - expected) / [len(target) for target in TARGETS]).max() < 1e-4
    assert sharded.way == "packed" and sharded.forwarded_tokens == whole.forwarded_tokens
    assert sorted(np.concatenate([rows for rows, _ in kept]).tolist()) == list(range(len(PROMPTS)))
    for terms, total, target in zip(sharded.logprobs(PROMPTS, TARGETS), sums, TARGETS, strict=True):
        assert len(terms) == len(target) and terms.sum() == pytest.approx(total, abs=1e-4)
    assert sharded.works() and sharded.sums([], []).shape == (0,)


def test_what_is_finished_is_not_computed_again(sharded):
    assert "LOCAL_RANK" not in os.environ  # which others would take for a launcher's
    finished = np.full(len(PROMPTS), 7.0)
    before = sharded.forwarded_tokens
    assert (sharded.sums(PROMPTS, TARGETS, finished=finished) == 7.0).all() and sharded.forwarded_tokens == before


def test_what_storage_raises_is_raised_as_it_is_and_ends_the_scorer(sharded):
    def keep(rows, sums):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        sharded.sums(PROMPTS, TARGETS, keep=keep)
    with pytest.raises(ShardsEnded, match="a process of those that the model is split over has failed"):
        sharded.works()


def test_a_process_that_fails_alone_ends_the_scorer_in_words(model, own_ray):
    scorer = ShardedScorer(model, 2, 4096, 200)
    folder = Path(scorer._close.peek()[2][1])
    assert folder.is_dir()
    # The other process fails alone, and the first waits for it.
    scorer._shards[0].ask("sums", [])
    with pytest.raises(ShardsEnded, match="has failed: ValueError: not enough values to unpack"):
        scorer.sums(PROMPTS, TARGETS)
    assert not folder.exists() and scorer._shards[0]._process.poll() is not None
    with pytest.raises(ShardsEnded, match="has failed"):
        scorer.sums(PROMPTS, TARGETS)


def test_a_process_that_is_killed_while_others_wait_for_it_ends_the_scorer(model, own_ray):
    scorer = ShardedScorer(model, 2, 4096, 200)
    scorer._shards[0]._process.send_signal(signal.SIGSTOP)  # it takes part in nothing from now on
    threading.Timer(1.0, scorer._shards[0]._process.kill).start()
    with pytest.raises(ShardsEnded, match="has failed: process 1 ended with status -9"):
        scorer.sums(PROMPTS, TARGETS)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path, own_ray, monkeypatch):
    monkeypatch.setenv("TSS_COUNTED_GPUS", "1")
    with pytest.raises((ModelProblem, ShardsEnded), match="no such folder"):
        load_scorer({"name": str(tmp_path / "none"), "dtype": "float32"}, "auto", 200, gpus=2.0)


def test_only_models_that_give_their_own_numbers_are_split(monkeypatch):
    config = random_model("llama").config
    assert sharding_problem(config, 2) is None
    assert "2 num_key_value_heads cannot be split over 4" in sharding_problem(config, 4)
    monkeypatch.setattr(config, "quantization_config", {"quant_method": "fp8"}, raising=False)
    assert "quantised" in sharding_problem(config, 2)
    for family in ("gemma3n_text", "cohere", "gpt_oss", "gpt2"):  # some of these give other numbers, and say nothing
        assert family not in SPLIT
        assert "not known to give their own numbers" in sharding_problem(AutoConfig.for_model(family), 2)
    tied = AutoConfig.for_model("gpt_neox", tie_word_embeddings=True)
    assert "whose head is its embedding" in sharding_problem(tied, 2)
    own_code = AutoConfig.for_model("llama", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "own code" in sharding_problem(own_code, 2, trust_remote_code=True)


def test_other_numbers_have_other_totals():
    numbers = np.array([-3.0, -4.0, np.nan, -1e6])
    assert totals_of([numbers[:2], numbers[2:]]) == totals_of([numbers])
    for others in ([-4.0, -3.0, np.nan, -1e6], [-3.0, np.nan, -4.0, -1e6], [-3.0, -4.0, 0.0, -1e6]):
        assert totals_of([np.array(others)]) != totals_of([numbers])
