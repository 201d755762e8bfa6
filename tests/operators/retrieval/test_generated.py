"""What was written for an input, as alternatives of a row: rules 1 and 2, and its place before what is retrieved."""

import numpy as np
import pytest
from admitted import rows_of
from conftest import byte_tokenizer

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from operators.retrieval.generated import Generated, Offer, input_key
from operators.schema import WRITTEN, from_rows
from operators.scoring.encode_pairs import Candidates, encode_rows

# Angles in degrees between the embedding of "Sort." and those of these texts.
ANGLES = {"Count the words.": 60, "sort!": 5, "Order them.": 10, "Translate it.": 80, "Say it backwards.": 45}
PARAPHRASE = 0.95  # 18.2 degrees


def at(degrees):
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


@pytest.fixture
def written():
    vectors = np.stack([at(angle) for angle in ANGLES.values()])
    rows = [
        {"key": input_key("a b"), "instructions": [1, 0, 1, 3]},
        {"key": input_key("c"), "instructions": [1, 2]},
        {"key": input_key("d"), "instructions": []},
    ]
    return Generated(from_rows(rows, WRITTEN), list(ANGLES), vectors, paraphrase_max=PARAPHRASE)


def test_the_same_wording_is_no_alternative_and_a_paraphrase_is_counted(written):
    offers, skipped = written.offers("a b", "Sort.", at(0))
    assert offers == [
        Offer("Count the words.", pytest.approx(0.5)),
        Offer("Translate it.", pytest.approx(np.cos(np.radians(80)))),
    ]
    assert skipped == 0
    assert written.offers("c", "Sort.", at(0)) == ([], 1)
    assert written.offers("d", "Sort.", at(0)) == written.offers("of nobody", "Sort.", at(0)) == ([], 0)


def test_a_similarity_at_the_bound_is_a_paraphrase():
    for similarity, skipped in ((0.95, 1), (0.9499, 0)):
        vectors = np.array([[similarity, 0.1]], dtype=np.float64)
        rows = from_rows([{"key": input_key("x"), "instructions": [0]}], WRITTEN)
        own = Generated(rows, ["Count."], vectors, paraphrase_max=0.95)
        assert own.offers("x", "Sort.", np.array([1.0, 0.0]))[1] == skipped


def test_without_any_instruction_there_are_no_offers():
    rows = from_rows([{"key": input_key("x"), "instructions": []}], WRITTEN)
    assert Generated(rows, [], np.zeros((0, 0), np.float32), paraphrase_max=0.95).offers("x", "Sort.", at(0)) == ([], 0)


ROW = ("Sort.", "a b", "b a")
RETRIEVED = ["Copy it.", "Count the WORDS", "Double it.", "Write it twice."]


def alternatives(offers, k, *, rows=True, max_length=100, skipped=(1, 2)):
    """What is chosen from written offers, and then from a pool of RETRIEVED in this order."""
    ranked = RETRIEVED if rows else []
    candidates = Candidates(ranked, [0.5] * len(ranked), sum(skipped), tuple(offers))
    encoder = Encoder(byte_tokenizer(bos=True), load_template("plain"), True, max_length)
    (row,) = encode_rows(rows_of([ROW]), [candidates], encoder, k).to_pylist()
    assert row["paraphrases_skipped"] == sum(skipped)
    return [(one["instruction"], one["origin"], round(one["similarity"], 3)) for one in row["alternatives"]]


OFFERS = [Offer("Count the words.", 0.25), Offer("Translate it.", 0.125)]


def test_written_alternatives_come_first_and_the_pool_fills_up_what_is_missing():
    written = [("Count the words.", "generated", 0.25), ("Translate it.", "generated", 0.125)]
    assert alternatives(OFFERS, 2) == written and alternatives(OFFERS, 1) == written[:1]
    assert alternatives(OFFERS, 3) == [*written, ("Copy it.", "retrieved", 0.5)]
    # "Count the WORDS" has the wording of a written one.
    found = alternatives(OFFERS, 5)
    assert found[:3] == [*written, ("Copy it.", "retrieved", 0.5)]
    assert [text for text, *_ in found[3:]] == ["Double it.", "Write it twice."]
    assert {origin for _, origin, _ in found[2:]} == {"retrieved"}


def test_alone_they_are_all_there_is():
    assert [text for text, *_ in alternatives(OFFERS, 4, rows=False)] == ["Count the words.", "Translate it."]
    assert alternatives([], 4, rows=False) == []


def test_a_written_alternative_that_is_too_long_is_left_out():
    long = Offer("Count the words " + "and the letters " * 10, 0.3)
    found = alternatives([long, *OFFERS], 3, max_length=40)
    assert [text for text, *_ in found] == ["Count the words.", "Translate it.", "Copy it."]


def test_without_written_ones_the_pool_is_taken_as_it_is():
    found = alternatives([], 4)
    assert [text for text, *_ in found] == RETRIEVED and {origin for _, origin, _ in found} == {"retrieved"}
