"""Which rows are near duplicates, against the slow twin; signatures and bands against what they promise."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import near_duplicates as slow_near_duplicates
from reference import shingles as slow_shingles
from reference import similarity as slow_similarity

from operators import near_duplicates as near
from operators.hashing import content_hash
from operators.minhash import HASHES, agreement, band_keys, bands_for, signatures
from operators.near_duplicates import Ranked, distinct_pairs, pairs_in_buckets, settle, similarities
from operators.row_ids import hex_ids, id_words, number_ids, places_of
from operators.shingles import FoldedRow, fold_characters, fold_row, jaccard, shingle_hashes

WORDS = [
    "river",
    "stone",
    "apple",
    "forest",
    "zürich",
    "quick",
    "lantern",
    "42",
    "the",
    "of",
    "a",
    "in",
    "東京",
    "cloud",
    "bright",
    "walking",
]
TEXT = st.text(alphabet="abc de\n.É", max_size=40)


def text(rng, count):
    return " ".join(rng.choices(WORDS, k=count))


def edited(rng, words, times=1):
    parts = words.split(" ")
    for _ in range(times):
        parts[rng.randrange(len(parts))] = rng.choice(WORDS)
    return " ".join(parts)


def corpus(count, seed, edits=3):
    """Groups of rows that differ in a few words of prompt or output, in two inputs."""
    rng, rows = random.Random(seed), []
    while len(rows) < count:
        first = {"instruction": text(rng, 12), "input": text(rng, rng.choice([0, 20])), "output": text(rng, 40)}
        for _ in range(rng.choice([1, 1, 2, 5])):
            row = dict(first)
            for name in ("instruction", "output"):
                row[name] = edited(rng, row[name], rng.randrange(edits))
            rows.append(row)
    for row in rows:
        row["id"] = content_hash(row["instruction"], row["input"], row["output"]).hex()
        row["input_index"] = rng.randrange(2)
    return list({row["id"]: row for row in rows}.values())


def ranked(rows):
    return Ranked(
        id_words([row["id"] for row in rows]),
        np.array([row["input_index"] for row in rows]),
        np.array([sum(len(row[name]) for name in ("instruction", "input", "output")) for row in rows]),
    )


def near_duplicates(rows, threshold):
    """What the stages do, in one process."""
    texts = [fold_row(row["instruction"], row["input"], row["output"]) for row in rows]
    bands, every = bands_for(threshold), ranked(rows)
    keys = band_keys(signatures(texts), bands)
    owner = np.repeat(np.arange(len(rows)), bands.count)
    pairs, _ = pairs_in_buckets(every.take(owner), keys.reshape(-1), np.roll(keys, -1, axis=1).reshape(-1))
    pairs = owner[distinct_pairs(every.ids[owner], pairs)]
    similarity = similarities(texts, pairs, threshold)
    pairs, similarity = pairs[similarity >= 0], similarity[similarity >= 0]
    dropped = settle(every.take(pairs[:, 0]), every.take(pairs[:, 1]), similarity)
    stayed = zip(hex_ids(dropped.stayed), dropped.similarity.tolist(), strict=True)
    return dict(zip(hex_ids(dropped.ids), stayed, strict=True))


@pytest.mark.ray  # slow
@pytest.mark.parametrize(("threshold", "seed"), [(0.9, 0), (0.7, 1), (0.8, 2), (1.0, 3)])
def test_the_rows_that_go_are_those_of_the_slow_twin(threshold, seed):
    rows = corpus(110, seed, edits=2 if threshold == 1.0 else 3)
    expected = slow_near_duplicates(rows, threshold)
    assert near_duplicates(rows, threshold) == expected
    assert expected or threshold == 1.0
    shuffled = random.Random(5).sample(rows, len(rows))
    assert near_duplicates(shuffled, threshold) == expected


@pytest.mark.ray  # slow
def test_large_groups_of_near_duplicates_leave_few_rows_and_every_claim_holds():
    rng = random.Random(0)
    first = text(rng, 300)
    rows = [{"instruction": "Say it again.", "input": "", "output": edited(rng, first, 2)} for _ in range(400)]
    for row in rows:
        row["id"], row["input_index"] = content_hash(*row.values()).hex(), 0
    rows = list({row["id"]: row for row in rows}.values())
    assert len(rows) > 10 * near.ROOM
    gone = near_duplicates(rows, 0.9)
    by_id = {row["id"]: row for row in rows}
    assert len(gone) == len(slow_near_duplicates(rows, 0.9))
    for name, (stayed, similarity) in gone.items():
        assert stayed not in gone and similarity >= 0.9
        assert similarity == pytest.approx(slow_similarity(by_id[name], by_id[stayed]))


def test_rows_with_one_prompt_and_other_answers_are_none():
    rng = random.Random(1)
    long = text(rng, 400)
    rows = [{"instruction": "Answer.", "input": long, "output": text(rng, 6), "input_index": 0} for _ in range(20)]
    rows = [{**row, "id": content_hash(str(i)).hex()} for i, row in enumerate(rows)]
    assert near_duplicates(rows, 0.8) == {}


def test_rows_with_one_long_instruction_and_other_inputs_are_none():
    rng = random.Random(2)
    long = f"Is it good? {text(rng, 400)}"
    rows = [{"instruction": long, "input": text(rng, 4), "output": "It is.", "input_index": 0} for _ in range(20)]
    rows += [{"instruction": f"{long} {name}", "input": "", "output": "It is.", "input_index": 0} for name in "ab"]
    rows = [{**row, "id": content_hash(str(i)).hex()} for i, row in enumerate(rows)]
    gone = near_duplicates(rows, 0.9)
    assert gone == slow_near_duplicates(rows, 0.9)
    assert gone.keys() <= {row["id"] for row in rows[20:]}  # of rows without an input, prompts are all there is


def test_the_first_input_comes_before_the_longest_text():
    long = "a river of stones " * 20
    rows = [
        {"instruction": "Say it.", "input": "", "output": f"{long}{more}", "input_index": index}
        for index, more in ((1, "and more of it"), (0, "and"), (1, "and more"))
    ]
    rows = [{**row, "id": content_hash(row["output"]).hex()} for row in rows]
    gone = near_duplicates(rows, 0.5)
    assert {stayed for stayed, _ in gone.values()} == {rows[1]["id"]} and len(gone) == 2
    alike = [{**row, "input_index": 0} for row in rows]
    assert {stayed for stayed, _ in near_duplicates(alike, 0.5).values()} == {rows[0]["id"]}


def test_a_row_that_goes_takes_no_other_with_it():
    """b is near a and c is near b: a stays, b goes, and c, which is far from a, stays."""
    ids = id_words([content_hash(name).hex() for name in "abc"])
    chars = np.array([30, 20, 10])
    every = Ranked(ids, np.zeros(3, dtype=np.int64), chars)
    dropped = settle(every.take(np.array([2, 1])), every.take(np.array([1, 0])), np.array([0.95, 0.9]))
    assert hex_ids(dropped.ids) == hex_ids(ids[1:2]) and hex_ids(dropped.stayed) == hex_ids(ids[:1])


def test_a_crowd_is_counted_and_bounded():
    count = 500
    every = Ranked(
        id_words([content_hash(str(i)).hex() for i in range(count)]), np.zeros(count, np.int64), np.arange(count)
    )
    alike = np.ones(count, dtype=np.uint64)
    pairs, crowded = pairs_in_buckets(every, alike, alike)
    assert crowded == count and len(distinct_pairs(every.ids, pairs)) < count * 3 * near.HEADS
    first = int(np.argmax(every.chars))
    assert {int(row) for pair in pairs.tolist() if first in pair for row in pair} == set(range(count))
    pairs, crowded = pairs_in_buckets(every, alike, np.arange(count, dtype=np.uint64) // np.uint64(near.ROOM))
    assert crowded == 0


def test_copies_of_a_row_are_no_pair_and_stand_for_their_first_input():
    ids = id_words([content_hash(name).hex() for name in "aab"])
    every = Ranked(ids, np.array([1, 0, 1]), np.array([5, 5, 9]))
    pairs, _ = pairs_in_buckets(every, np.zeros(3, np.uint64), np.zeros(3, np.uint64))
    assert pairs.tolist() == [[1, 2]]


@given(st.lists(TEXT, max_size=8))
def test_shingles_are_those_of_each_text(texts):
    folded = [fold_characters(one) for one in texts]
    hashes, starts = shingle_hashes(folded)
    assert len(starts) == len(texts) + 1 and starts[-1] == len(hashes)
    by_shingle = {}
    for i, one in enumerate(folded):
        own = hashes[starts[i] : starts[i + 1]].tolist()
        assert len(own) == (max(1, len(one) - 4) if one else 0) and len(set(own)) == len(slow_shingles(one))
        for place, value in enumerate(own):
            assert by_shingle.setdefault(one[place : place + 5], value) == value
    assert len(set(by_shingle.values())) == len(by_shingle)


@given(TEXT, TEXT)
def test_similarity_is_that_of_sets(one, other):
    sets = [np.unique(shingle_hashes([fold_characters(text)])[0]) for text in (one, other)]
    expected = [slow_shingles(text) for text in (one, other)]
    union = expected[0] | expected[1]
    assert jaccard(*sets) == (len(expected[0] & expected[1]) / len(union) if union else 1.0)


def test_signatures_estimate_the_index_without_bias():
    rng = random.Random(3)
    rows = [FoldedRow(text(rng, 30), "", text(rng, 60)) for _ in range(300)]
    others = [FoldedRow(edited(rng, a, 3), "", edited(rng, b, 6)) for a, _, b in rows]
    estimates = agreement(signatures(rows), signatures(others))
    exact = []
    for (a, _, b), (c, _, d) in zip(rows, others, strict=True):
        some, more = ({*slow_shingles(x), *(f"Y{s}" for s in slow_shingles(y))} for x, y in ((a, b), (c, d)))
        exact.append(len(some & more) / len(some | more))
    errors = estimates - np.array(exact)
    spread = np.sqrt(np.array(exact) * (1 - np.array(exact)) / HASHES)
    assert abs(errors.mean()) < 4 * spread.mean() / len(rows) ** 0.5 + 0.003
    assert errors.std() < 1.25 * spread.mean()


def test_signatures_do_not_depend_on_what_is_beside():
    rng = random.Random(4)
    rows = [FoldedRow(text(rng, rng.choice([1, 30, 9000])), "", text(rng, 5)) for _ in range(40)]
    together = signatures(rows)
    assert (together == np.concatenate([signatures([row]) for row in rows])).all()
    assert (signatures([FoldedRow("", "", "")]) == np.iinfo(np.uint32).max).all() and len(signatures([])) == 0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_miss_few_pairs_at_the_threshold(threshold):
    bands = bands_for(threshold)
    assert bands.count * bands.width <= HASHES and bands.recall(threshold) >= 0.99
    wider = bands.width + 1
    assert wider > HASHES or 1 - (1 - threshold**wider) ** (HASHES // wider) < 0.99


def test_ids_travel_as_numbers_and_back():
    ids = [content_hash(str(i)).hex() for i in range(50)] + ["0" * 32, "f" * 32, "0" * 31 + "1"]
    words = id_words(ids)
    assert hex_ids(words) == ids
    distinct, numbers = number_ids(np.concatenate([words, words[::-1]]))
    assert hex_ids(distinct) == sorted(ids) and (distinct[numbers] == np.concatenate([words, words[::-1]])).all()
    assert (places_of(words, distinct) == np.array([sorted(ids).index(one) for one in ids])).all()
    assert places_of(id_words(["0" * 31 + "2"]), distinct).tolist() == [-1]
