"""Instructions that an embedder cannot embed: the run cannot do without one, so the message says which it is."""

import numpy as np
import pyarrow as pa
import pytest
from admitted import rows_of
from pools import unit
from simulated_death import Died

from operators.hashing import content_hash
from operators.retrieval.embedder import LexicalEmbedder, embed_folded
from operators.retrieval.instruction_table import distinct_instructions
from operators.schema import EMBEDDINGS
from pipeline.engine.attempts import GivenUp
from pipeline.retrieval.embeddings import (
    _STORED,
    BrokenEmbedder,
    EmbeddedShard,
    EmbedRange,
    MissingEmbeddings,
    recall_embeddings,
    write_embeddings,
)
from pipeline.retrieval.shards import embeddings_path, instructions_path
from pipeline.storage import computed
from pipeline.storage.arrays import load_array
from pipeline.storage.parts import write_table
from pipeline.storage.records import records_of, to_json

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
    """Ranges of instructions without the index that they come from."""

    def __init__(self, work, embedder):
        self._work, self._fake = str(work), embedder

    @property
    def _embedder(self):
        return self._fake


def test_an_instruction_that_the_embedder_fails_on_is_named(tmp_path):
    long = "POISON " + "x" * 1000
    texts = [*TEXTS[:7], long, *TEXTS[7:]]
    with pytest.raises(BrokenEmbedder) as failed:
        Range(tmp_path, Failing(RuntimeError("index out of range\nmore")))._embed(texts, "0-0")
    told = str(failed.value)
    assert "fails on this instruction: 'POISON xxx" in told and "of 1,007 characters" in told and len(told) < 500
    assert "take its rows out of the input" in told and "(RuntimeError: index out of range)" in told


def test_an_embedder_that_fails_on_everything_blames_no_instruction(tmp_path):
    embedder = Failing(RuntimeError("device-side assert"), poison="")
    with pytest.raises(BrokenEmbedder, match="fails on everything since RuntimeError: device-side assert"):
        Range(tmp_path, embedder)._embed(TEXTS, "0-0")
    assert embedder.calls == 2


@pytest.mark.ray  # slow
def test_an_instruction_that_ends_the_process_is_named_after_a_bounded_number_of_deaths(mortal, tmp_path):
    texts = [*TEXTS[:7], "POISON", *TEXTS[7:]]
    ends = []
    while GivenUp not in ends and len(ends) < 40:
        with pytest.raises((Died, GivenUp)) as ended:
            Range(tmp_path, Failing(Died()))._embed(texts, "0-0")
        ends.append(ended.type)
    assert "ends each time it embeds this instruction: 'POISON'" in str(ended.value)
    assert len(ends) <= 3 + 3 + 2 + 1  # the whole range, its halves, the instruction alone, and the message


def test_an_embedding_that_is_no_number_is_not_taken(tmp_path):
    class Broken(Failing):
        def embed(self, texts):
            vectors = super().embed(texts)
            vectors[[i for i, text in enumerate(texts) if text == TEXTS[3]]] = np.nan
            return vectors

    with pytest.raises(BrokenEmbedder, match=r"fails on this instruction: 'Sort list 3.*not finite"):
        Range(tmp_path, Broken(RuntimeError(), poison="POISON"))._embed(TEXTS, "0-0")


def test_stored_embeddings_and_new_ones_stand_where_their_instructions_do(tmp_path):
    index = str(tmp_path / "index")
    table = distinct_instructions(rows_of([(text, "", "x") for text in TEXTS]), 100)
    keys, vectors = table["key"].to_pylist(), unit(np.random.default_rng(0).normal(size=(len(table), 5)))
    write_table(instructions_path(index, 0), table)
    old = [(keys[place], run, vectors[place] * sign) for place in (2, 7) for run, sign in (("run-1", -1), ("run-2", 1))]
    gone = (content_hash("gone"), "run-2", vectors[0])
    rows = [{"shard": 0, "key": key, "run": run, "embedding": vector.tolist()} for key, run, vector in [*old, gone]]
    batch = pa.Table.from_pylist(rows, schema=_STORED)
    (record,) = records_of(MissingEmbeddings, recall_embeddings(batch, index=index), "record")
    assert record == MissingEmbeddings(0, len(TEXTS) - 2)
    missing = [place for place in range(len(TEXTS)) if place not in (2, 7)]
    stored = pa.table({"key": [keys[i] for i in missing], "embedding": list(vectors[missing])})
    paths = [
        computed.write(str(tmp_path / "embeddings" / "e" / "run-3"), stored.slice(i, 4), EMBEDDINGS) for i in (0, 4, 8)
    ]
    items = pa.table({"item": [to_json(EmbeddedShard(0, paths, True))]})
    write_embeddings(items, index=index)
    np.testing.assert_array_equal(load_array(embeddings_path(index, 0)), vectors)


@pytest.mark.ray  # slow
def test_a_death_that_passes_changes_no_embedding(mortal, tmp_path):
    for _ in range(4):  # then the range is in halves
        with pytest.raises(Died):
            Range(tmp_path, Failing(Died(), poison="list"))._embed(TEXTS, "0-0")
    found = Range(tmp_path, LexicalEmbedder())._embed(TEXTS, "0-0")
    np.testing.assert_array_equal(found, embed_folded(LexicalEmbedder(), TEXTS))
