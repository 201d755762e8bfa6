"""Words that rows share with excluded texts, against the slow twin; a hash alone never decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import shared_ngram as slow_shared_ngram
from reference import words as slow_words

from operators import word_ngrams
from operators.word_ngrams import Shared, find_shared, index_texts, words_of

QUESTION = "Which of these rivers, by length, is the longest one in all of southern Europe?"
TEXTS = st.lists(st.lists(st.sampled_from(["a", "B", "c,", "d"]), max_size=12).map(" ".join), max_size=4)


def shared(row, excluded, length, wholes=()):
    texts = index_texts(list(enumerate(excluded, start=1)), length)
    return find_shared([row], [list(wholes)], texts, length)[0]


@given(TEXTS, TEXTS, st.integers(4, 6))
def test_a_row_is_found_where_the_slow_twin_finds_it(row, excluded, length):
    assert (shared(row, excluded, length) is not None) == slow_shared_ngram(row, excluded, length)


@given(TEXTS, TEXTS)
def test_a_hash_alone_never_decides(row, excluded):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_ngrams, "_FACTORS", np.zeros(1000, dtype=np.uint64))  # all n-grams have one hash
        assert (shared(row, excluded, 4) is not None) == slow_shared_ngram(row, excluded, 4)
        assert shared([], excluded, 13, row) is None or any(
            words_of(one) == words_of(other) for one in row for other in excluded
        )


def test_the_line_and_the_words_are_named():
    found = shared(["x", f"So: {QUESTION.upper()} - who knows"], ["nothing of this at all", QUESTION], 13)
    assert found == Shared(2, "which of these rivers by length is the longest one in all of", False)


def test_an_ngram_stays_within_one_text():
    half, rest = QUESTION.split(", by ")
    assert shared([half, f"by {rest}"], [QUESTION], 13) is None
    assert shared([QUESTION], [half, f"by {rest}"], 13) is None
    assert shared([f"{half} by {rest}"], [QUESTION], 13) is not None


def test_a_short_text_counts_as_a_whole_and_a_very_short_one_not_at_all():
    short = "What is the capital of France?"
    assert shared([], [short], 13, ["what is the capital of  France"]) == Shared(
        1, "what is the capital of france", True
    )
    assert shared([f"Tell me: {short}"], [short], 13, [f"Tell me: {short}"]) is None
    assert shared(["yes"], ["yes"], 13, ["yes"]) is None


def test_of_equal_texts_the_first_is_named():
    assert shared([QUESTION], [QUESTION] * 3, 13).line == 1


@given(st.text(alphabet="aB1é ,.-+ßﬁ\u0301ि", max_size=30))
def test_words_are_those_of_the_slow_twin(text):
    assert words_of(text) == slow_words(text)


def test_characters_of_scripts_without_spaces_are_words():
    assert words_of("東京タワー is 高い") == ["東", "京", "タ", "ワ", "ー", "is", "高", "い"]
    assert words_of("한국어 문장") == ["한국어", "문장"]


def test_words_are_hashed_anew_when_too_many_are_remembered(monkeypatch):
    monkeypatch.setattr(word_ngrams, "_WORDS_KEPT", 3)
    assert shared([QUESTION], [QUESTION], 13) is not None
