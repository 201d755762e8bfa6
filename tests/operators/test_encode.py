"""Prompts and targets are encoded apart; BOS stands at most once; l(0) has a context."""

import pytest
from conftest import byte_tokenizer

from operators.encode import Encoder, empty_context, encode_prompts, encode_targets
from operators.lengths import Measured, measure
from operators.normalise import Example, Rejection
from operators.template import TemplateProblem, from_text, load_template

BOS, EOS = 1, 0


def encoder(*, bos=True, template="plain", append_eos=True, max_length=512) -> Encoder:
    tokenizer = byte_tokenizer(bos=bos)
    return Encoder(tokenizer, load_template(template, tokenizer), append_eos, max_length)


def test_one_bos_where_the_tokenizer_adds_it():
    assert encode_prompts(byte_tokenizer(bos=True), ["ab"])[0].count(BOS) == 1


def test_a_chat_template_that_writes_bos_gets_no_second_one():
    (ids,) = encoder(template="chat").prompts([("Hi", "")])
    assert ids[0] == BOS and ids.count(BOS) == 1


def test_no_bos_where_the_tokenizer_has_none():
    tokenizer = byte_tokenizer(bos=False)
    assert encode_prompts(tokenizer, ["ab"]) == encode_targets(tokenizer, ["ab"], append_eos=False)
    assert empty_context(tokenizer) == [tokenizer.eos_token_id]


def test_targets_have_no_bos_and_one_eos():
    (ids,) = encode_targets(byte_tokenizer(bos=True), ["ab"], append_eos=True)
    assert BOS not in ids and ids[-1] == EOS and len(ids) == 3


def test_nothing_to_encode():
    assert (
        encode_prompts(byte_tokenizer(bos=True), [])
        == []
        == encode_targets(byte_tokenizer(bos=True), [], append_eos=True)
    )


def test_an_empty_prompt_is_a_problem():
    tokenizer = byte_tokenizer(bos=False)
    empty = Encoder(tokenizer, from_text("t.jinja", "{% if input %}x{% endif %}"), True, 64)
    assert isinstance(empty.prompts([("a", "")])[0], TemplateProblem)
    assert empty.prompts([("a", "b")])[0] == encode_prompts(tokenizer, ["x"])[0]


def example(input="", output="yes"):
    return Example("Do it", input, output, None, "{}")


def test_counts_are_those_of_the_ids():
    one = encoder()
    (measured,) = measure([example("abc")], one, too_long="reject")
    assert measured == Measured(len(one.prompt("Do it", "abc")), 4, 3)


@pytest.mark.parametrize("policy", ["reject", "truncate_input"])
def test_what_fits_exactly_stays(policy):
    length = len(encoder().prompt("Do it", "abc")) + 4
    (measured,) = measure([example("abc")], encoder(max_length=length), too_long=policy)
    assert measured.input_chars == 3


def test_too_long_is_rejected_and_never_cut_silently():
    (rejection,) = measure([example("abc" * 50)], encoder(max_length=60), too_long="reject")
    assert isinstance(rejection, Rejection) and rejection.reason == "too_long" and "at most 60" in rejection.detail


def test_truncation_keeps_as_much_input_as_fits():
    one = encoder(max_length=60)
    (measured,) = measure([example("abc" * 50)], one, too_long="truncate_input")
    assert measured.n_prompt_tokens + measured.n_target_tokens == 60
    assert len(one.prompt("Do it", ("abc" * 50)[: measured.input_chars])) == measured.n_prompt_tokens


def test_truncation_cannot_help_a_long_output():
    (rejection,) = measure([example("abc", "long " * 50)], encoder(max_length=60), too_long="truncate_input")
    assert rejection.reason == "too_long"


def test_an_output_without_tokens_is_empty():
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Strip()
    one = Encoder(tokenizer, load_template("plain"), True, 64)
    (rejection,) = measure([example(output="  ")], one, too_long="reject")
    assert rejection.reason == "empty_output"
