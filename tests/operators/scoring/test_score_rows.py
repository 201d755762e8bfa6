"""A block of rows: alternatives that fit, each pair once, values of the twin, whatever the rest of the block holds."""

import numpy as np
import pyarrow as pa
import pytest
from admitted import rows_of
from conftest import byte_tokenizer, random_model
from pools import Pool, unit
from reference import loglik

from operators.prompts.template import from_text, load_template
from operators.prompts.tokenise import Encoder, empty_context
from operators.retrieval.instruction_table import distinct_instructions, merge_instructions
from operators.scoring.encode_pairs import encode_rows
from operators.scoring.score_rows import Scoring
from operators.scoring.scorer import TargetScorer

INSTRUCTIONS = [
    "Add the numbers.",
    "Sort.",
    "Take the numbers away, one after the other, until none is left.",
    "Say it twice.",
    "Turn around.",
]


def score(texts, *, k=2, max_length=400, template=None, count=2, input_chars=None):
    rows = rows_of(texts)
    if input_chars is not None:
        rows = rows.set_column(
            rows.column_names.index("input_chars"), "input_chars", pa.array([input_chars] * len(rows))
        )
    table = merge_instructions(
        [distinct_instructions(rows_of([(one, "x", "y") for one in INSTRUCTIONS] + texts), max_length)]
    )
    pool = Pool(table, unit(np.random.default_rng(0).normal(size=(len(table), 8))), paraphrase_max=1.01)
    found = pool.candidates(pool.neighbours(count))
    candidates = [found[row["instruction"], bool(row["input"].strip()), None] for row in rows.to_pylist()]
    tokenizer = byte_tokenizer(bos=True)
    encoder = Encoder(tokenizer, template or load_template("plain"), True, max_length)
    model = random_model("llama")
    encoded = encode_rows(rows, candidates, encoder, k)
    scoring = Scoring(encoded, empty_context(tokenizer), lambda: TargetScorer(model, 500))
    scoring.score_all()
    return scoring.table().to_pylist(), scoring.work, encoder, model, pool


def test_every_value_is_that_of_the_twin():
    rows, work, encoder, model, _ = score(
        [("Sort.", "b a", "a b"), ("Add the numbers.", "1 2", "3"), ("Sort.", "c", "c")]
    )
    for row in rows:
        (target,) = encoder.targets([row["output"]])
        for value, prompt in [
            (row["loglik_mean"], encoder.prompt(row["instruction"], row["input"])),
            (row["loglik_empty_mean"], empty_context(encoder.tokenizer)),
            *((one["loglik_mean"], encoder.prompt(one["instruction"], row["input"])) for one in row["alternatives"]),
        ]:
            assert value == pytest.approx(loglik(model, prompt, target) / len(target), abs=1e-4)
        assert (
            row["loglik_sum"] == pytest.approx(row["loglik_mean"] * len(target), rel=1e-5)
            and row["n_alternatives"] == 2
        )
    assert work.pairs == work.computed == 12


def test_equal_pairs_are_computed_once():
    # Each is among the other's alternatives, so the two rows ask for the same pairs; l(0) is one for both.
    rows, work, *_ = score([(one, "1 2", "3") for one in INSTRUCTIONS], k=4, count=4)
    assert work.pairs == 5 * 6 and work.computed == 5 + 1
    own = {row["instruction"]: row["loglik_mean"] for row in rows}
    for row in rows:
        assert {one["instruction"]: one["loglik_mean"] for one in row["alternatives"]} == {
            text: own[text] for text in own if text != row["instruction"]
        }


def test_an_alternative_that_is_too_long_is_replaced_by_the_next():
    texts = [("Sort.", "b a", "a b")]
    (free,), _, encoder, _, _ = score(texts, k=4, count=4)
    longest = max(len(encoder.prompt(one["instruction"], "b a")) for one in free["alternatives"])
    (row,), *_ = score(texts, k=3, count=4, max_length=longest - 1 + len(encoder.targets(["a b"])[0]))
    assert [one["instruction"] for one in row["alternatives"]] == [
        one["instruction"] for one in free["alternatives"] if len(encoder.prompt(one["instruction"], "b a")) < longest
    ]


def test_a_template_that_fails_on_an_alternative_passes_it_over():
    template = from_text("t", "{{ instruction }} {{ 1 / (0 if instruction == 'Say it twice.' else 1) }}")
    (row,), *_ = score([("Sort.", "b a", "a b")], k=4, count=4, template=template)
    assert row["n_alternatives"] == 3 and "Say it twice." not in [one["instruction"] for one in row["alternatives"]]


def test_a_cut_input_is_cut_for_all_and_kept_verbatim():
    (row,), _, encoder, model, _ = score([("Sort.", "b a and more", "a b")], input_chars=3)
    (target,) = encoder.targets(["a b"])
    assert row["input_truncated"] and row["input"] == "b a and more"
    assert row["loglik_mean"] == pytest.approx(
        loglik(model, encoder.prompt("Sort.", "b a"), target) / len(target), abs=1e-4
    )
    one = row["alternatives"][0]
    assert one["loglik_mean"] == pytest.approx(
        loglik(model, encoder.prompt(one["instruction"], "b a"), target) / len(target), abs=1e-4
    )
