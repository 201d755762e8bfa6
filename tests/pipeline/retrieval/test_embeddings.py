"""Instructions that an embedder cannot embed: the run cannot do without one, so the message says which it is."""

import numpy as np
import pyarrow as pa
import pytest
from simulated_death import Died

from operators.retrieval.embedder import LexicalEmbedder, embed_folded
from pipeline.engine.attempts import GivenUp
from pipeline.retrieval.embeddings import BrokenEmbedder, EmbedRange, build_matrix
from pipeline.storage.arrays import load_array, save_array

TEXTS = [f"Sort list {i}." for i in range(11)]


class Failing:
    def __init__(self, error, poison="POISON"):
        self._embedder, self._error, self._poison, self.calls = LexicalEmbedder(), error, poison, 0

    def embed(self, texts):
        self.calls += 1
        if any(self._poison in text for text in texts):
            raise self._error
        return self._embedder.embed(texts)


class Range(EmbedRange):
    """A range of instructions without the index that it comes from."""

    def __init__(self, work, texts, embedder):
        self._work, self._table, self._fake = str(work), pa.table({"text": texts}), embedder

    @property
    def _embedder(self):
        return self._fake


def test_an_instruction_that_the_embedder_fails_on_is_named(tmp_path):
    long = "POISON " + "x" * 1000
    texts = [*TEXTS[:7], long, *TEXTS[7:]]
    with pytest.raises(BrokenEmbedder) as failed:
        Range(tmp_path, texts, Failing(RuntimeError("index out of range\nmore")))._embed(0, len(texts))
    told = str(failed.value)
    assert "fails on this instruction: 'POISON xxx" in told and "of 1,007 characters" in told and len(told) < 500
    assert "take its rows out of the input" in told and "(RuntimeError: index out of range)" in told


def test_an_embedder_that_fails_on_everything_blames_no_instruction(tmp_path):
    embedder = Failing(RuntimeError("device-side assert"), poison="")
    with pytest.raises(BrokenEmbedder, match="fails on everything since RuntimeError: device-side assert"):
        Range(tmp_path, TEXTS, embedder)._embed(0, len(TEXTS))
    assert embedder.calls == 2


@pytest.mark.ray  # slow
def test_an_instruction_that_ends_the_process_is_named_after_a_bounded_number_of_deaths(mortal, tmp_path):
    texts = [*TEXTS[:7], "POISON", *TEXTS[7:]]
    ends = []
    while GivenUp not in ends and len(ends) < 40:
        with pytest.raises((Died, GivenUp)) as ended:
            Range(tmp_path, texts, Failing(Died()))._embed(0, len(texts))
        ends.append(ended.type)
    assert "ends each time it embeds this instruction: 'POISON'" in str(ended.value)
    assert len(ends) <= 3 + 3 + 2 + 1  # the whole range, its halves, the instruction alone, and the message


def test_no_text_has_no_embedding(tmp_path):
    """A generator may write nothing that is an instruction."""
    index = str(tmp_path)
    save_array(f"{index}/missing.arrow", np.zeros(0, dtype=np.int64))
    save_array(f"{index}/recalled.arrow", np.zeros((0, 0), dtype=np.float32))
    build_matrix([], index)
    assert load_array(f"{index}/embeddings.arrow").shape == (0, 0)


@pytest.mark.ray  # slow
def test_a_death_that_passes_changes_no_embedding(mortal, tmp_path):
    for _ in range(4):  # then the range is in halves
        with pytest.raises(Died):
            Range(tmp_path, TEXTS, Failing(Died(), poison="list"))._embed(0, len(TEXTS))
    found = Range(tmp_path, TEXTS, LexicalEmbedder())._embed(0, len(TEXTS))
    np.testing.assert_array_equal(found, embed_folded(LexicalEmbedder(), TEXTS))
