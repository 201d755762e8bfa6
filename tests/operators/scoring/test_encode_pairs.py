"""Alternatives are the nearest candidates that fit, and a row that hardly any of them fits does not walk the whole pool."""

import numpy as np
import pyarrow as pa
import pytest
from admitted import rows_of
from conftest import byte_tokenizer
from pools import Pool, unit

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from operators.retrieval.alternatives import SPARE, TRIES
from operators.retrieval.instruction_table import distinct_instructions
from operators.scoring.encode_pairs import encode_rows

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

    def __init__(self, instructions, max_length):
        rows = rows_of([ROW, *((text, "", "x") for text in instructions)])
        tokens = pa.array([len(text) + 4 for text in rows["instruction"].to_pylist()])
        rows = rows.set_column(rows.column_names.index("n_prompt_tokens"), "n_prompt_tokens", tokens)
        table = distinct_instructions(rows, max_length)
        self.pool = Pool(table, unit(np.random.default_rng(0).normal(size=(len(table), 8))), paraphrase_max=1.01)
        self.ranking = self.pool.candidates(self.pool.neighbours(len(table)))[ROW[0], False, None].texts
        self._max_length = max_length

    def alternatives(self, k):
        self.tokenizer = Counting()
        encoder = Encoder(self.tokenizer, load_template("plain"), True, self._max_length)
        candidates = self.pool.candidates(self.pool.ranked(k))[ROW[0], False, None]
        (row,) = encode_rows(rows_of([ROW]), [candidates], encoder, k).to_pylist()
        return [alternative["instruction"] for alternative in row["alternatives"]]


LONG = [f"Sort the words of line {i} by their last letters." for i in range(1500)]
MOST = 20  # tokens of a sequence: the row itself has 13


@pytest.mark.ray  # slow
def test_a_row_near_the_greatest_length_tries_a_bounded_part_of_a_large_pool():
    case = Case(LONG, MOST)
    assert case.alternatives(4) == []
    # Its own prompt and target, what was tried, and a text with and without special tokens.
    assert case.tokenizer.texts == 2 + TRIES * 4 + 2


def test_candidates_that_fit_are_taken_from_as_far_as_may_be_tried():
    case = Case([*LONG[:300], *(f"Do {i}." for i in range(30))], MOST)
    fitting = [text for text in case.ranking[: TRIES * 4] if text.startswith("Do")]
    assert 4 < len(fitting) < 30
    assert case.alternatives(4) == fitting[:4]


def test_a_row_for_which_too_few_of_the_tried_fit_has_fewer_alternatives():
    case = Case([*LONG[:300], *(f"Do {i}." for i in range(10))], MOST)
    fitting = [text for text in case.ranking[: TRIES * 4] if text.startswith("Do")]
    assert 0 < len(fitting) < 4
    assert case.alternatives(4) == fitting


def test_only_rows_that_may_need_them_are_given_long_lists():
    case = Case(LONG[:300], 200)  # each instruction fits into each row
    case.pool.ranked(4)
    assert case.pool.searched[1:] == [(301, SPARE * 4)]
    tight = Case(LONG[:300], 100)  # a row of a long instruction may have no room for another
    tight.pool.ranked(4)
    assert (
        tight.pool.searched[1] == (301, SPARE * 4)
        and tight.pool.searched[2][0] > 0
        and tight.pool.searched[2][1] == TRIES * 4
    )
