"""Alternatives are the nearest candidates that fit, and a row that hardly any of them fits does not walk the whole pool."""

import numpy as np
import pytest
from admitted import rows_of
from conftest import byte_tokenizer

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from operators.retrieval.alternatives import Pool, distinct_instructions
from operators.scoring import encode_pairs
from operators.scoring.encode_pairs import TRIES, Candidates, encode_rows

ROW = ("Sort.", "", "a b")


class Counting:
    """A tokenizer that counts the texts it is given."""

    def __init__(self):
        self._tokenizer, self.texts = byte_tokenizer(bos=True), 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, **options):
        self.texts += len(texts)
        return self._tokenizer(texts, **options)


class Case:
    """A row, and a pool of long and short instructions in a ranking that is random but always the same."""

    def __init__(self, instructions):
        table = distinct_instructions(rows_of([ROW, *((text, "", "x") for text in instructions)]))
        vectors = np.random.default_rng(0).normal(size=(len(table), 8)).astype(np.float32)
        self.pool = Pool(table, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), paraphrase_max=1.01)
        own = table["text"].to_pylist().index(ROW[0])
        (self.query,) = self.pool.queries(own, own + 1)
        ((_, ranked, *_),) = self.pool.search([self.query], len(self.pool))
        self.ranking = [self.pool.texts[row] for row in ranked]

    def alternatives(self, k, max_length, stored=2):
        ((_, ranked, similar, complete, skipped),) = self.pool.search([self.query], stored)
        self.tokenizer = Counting()
        encoder = Encoder(self.tokenizer, load_template("plain"), True, max_length)
        candidates = [Candidates(self.query, ranked.tolist(), similar.tolist(), complete, skipped)]
        (row,) = encode_rows(rows_of([ROW]), candidates, self.pool, encoder, k).to_pylist()
        return [alternative["instruction"] for alternative in row["alternatives"]]


LONG = [f"Sort the words of line {i} by their last letters." for i in range(1500)]
MOST = 20  # tokens of a sequence: the row itself has 13


def test_a_row_near_the_greatest_length_tries_a_bounded_part_of_a_large_pool():
    case = Case(LONG)
    assert case.alternatives(4, MOST) == []
    # Its own prompt and target, what was tried, and a text with and without special tokens.
    assert case.tokenizer.texts == 2 + TRIES * 4 + 2


@pytest.mark.parametrize("stored", [1, 8, 100])
def test_candidates_that_fit_are_taken_from_as_far_as_may_be_tried(stored):
    case = Case([*LONG[:300], *(f"Do {i}." for i in range(30))])
    fitting = [text for text in case.ranking[: TRIES * 4] if text.startswith("Do")]
    assert 4 < len(fitting) < 30
    assert case.alternatives(4, MOST, stored) == fitting[:4]


def test_a_row_for_which_too_few_of_the_tried_fit_has_fewer_alternatives():
    case = Case([*LONG[:300], *(f"Do {i}." for i in range(10))])
    fitting = [text for text in case.ranking[: TRIES * 4] if text.startswith("Do")]
    assert 0 < len(fitting) < 4
    assert case.alternatives(4, MOST) == fitting


def test_rows_that_ask_alike_are_ranked_further_once(monkeypatch):
    case, searched = Case(LONG[:50]), []
    search = case.pool.search
    monkeypatch.setattr(case.pool, "search", lambda queries, count: searched.append(queries) or search(queries, count))
    ranked = Candidates(case.query, [], [], False, 0)
    prompts = encode_pairs._Prompts(Encoder(byte_tokenizer(bos=True), load_template("plain"), True, MOST))
    encode_pairs._choose_alternatives([("", None)] * 3, [9, 9, 9], [ranked] * 3, case.pool, prompts, 1)
    assert [case.query] in searched and sum(map(len, searched)) == 1
