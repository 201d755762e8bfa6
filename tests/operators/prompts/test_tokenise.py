"""Prompts and targets are encoded apart; BOS stands at most once; l(0) has a context."""

import pytest
from conftest import byte_tokenizer
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from operators.normalise import Example
from operators.prompts import tokenise
from operators.prompts.measure import Measured, measure
from operators.prompts.template import TemplateProblem, from_text, load_template
from operators.prompts.token_bounds import longest_text
from operators.prompts.tokenise import Encoder, empty_context, encode_prompts, encode_targets
from operators.rejections import Rejection
from operators.scoring.encode_pairs import _Prompts

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


def appending(rule):
    """A tokenizer whose own rule for special tokens is another one."""
    tokenizer = byte_tokenizer(bos=True)
    special = [("<bos>", BOS), ("<eos>", EOS)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=rule, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize(
    ("rule", "start"), [("$A <eos>", []), ("<bos> $A <eos>", [BOS]), ("<bos> $A <eos> <bos>", [BOS]), ("$A", [])]
)
def test_what_a_tokenizer_puts_after_every_text_stands_not_between_prompt_and_output(rule, start):
    tokenizer = appending(rule)
    assert (
        tokenizer(["ab"])["input_ids"][0] != tokenizer(["ab"], add_special_tokens=False)["input_ids"][0] or rule == "$A"
    )
    plain = encode_targets(tokenizer, ["ab", "c"], append_eos=False)
    assert encode_prompts(tokenizer, ["ab", "c"]) == [[*start, *ids] for ids in plain]
    assert encode_targets(tokenizer, ["ab"], append_eos=True) == [[*plain[0], EOS]]
    assert encode_prompts(tokenizer, [""]) == [start]


def test_an_end_that_a_template_writes_stays():
    (ids,) = encode_prompts(appending("<bos> $A <eos>"), ["ab<eos>"])
    assert ids[-1] == EOS and ids.count(EOS) == 1


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


class Watched:
    """A tokenizer that remembers how many characters it was given at a time."""

    def __init__(self, tokenizer):
        self._tokenizer, self.calls = tokenizer, []

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, texts, **options):
        self.calls.append(sum(map(len, texts)))
        return self._tokenizer(texts, **options)


@pytest.mark.parametrize(("input", "output"), [("x" * 10_000, "yes"), ("", "x" * 10_000)])
def test_what_is_certainly_too_long_is_rejected_before_it_is_tokenised(input, output):
    tokenizer = Watched(byte_tokenizer(bos=True))
    one = Encoder(tokenizer, load_template("plain"), True, 100)
    kept, rejection = measure([example("abc"), example(input, output)], one, too_long="reject")
    assert isinstance(kept, Measured) and max(tokenizer.calls) < 100
    assert rejection.reason == "too_long" and "10,0" in rejection.detail and "at most 100 tokens" in rejection.detail


def test_an_input_that_is_certainly_too_long_is_still_cut():
    one = encoder(max_length=60)
    long, short = (measure([example("abc" * n)], one, too_long="truncate_input")[0] for n in (50_000, 50))
    assert long == short and long.n_prompt_tokens + long.n_target_tokens == 60


def test_white_space_is_never_certainly_too_long():
    assert not encoder(max_length=8).certainly_over(" \n" * 10_000)
    assert encoder(max_length=8).certainly_over(" x" * 10_000)


def test_a_tokenizer_gets_so_much_text_at_a_time(monkeypatch):
    monkeypatch.setattr(tokenise, "CHARS_AT_ONCE", 50)
    tokenizer = Watched(byte_tokenizer(bos=True))
    examples = [example("abc" * (i % 9)) for i in range(40)]
    few = measure(examples, Encoder(tokenizer, load_template("plain"), True, 512), too_long="reject")
    assert max(tokenizer.calls) <= 50
    monkeypatch.undo()
    assert few == measure(examples, encoder(), too_long="reject")


def changed(change):
    tokenizer = byte_tokenizer(bos=True)
    change(tokenizer.backend_tokenizer)
    return tokenizer


def test_how_much_text_a_token_stands_for_where_it_is_certain():
    assert longest_text(byte_tokenizer(bos=True)) == len("<bos>")
    composing = changed(lambda backend: setattr(backend, "normalizer", normalizers.NFC()))
    assert longest_text(composing) == 4 * len("<bos>")


def pre(*steps):
    return lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Sequence([*steps, backend.pre_tokenizer]))


@pytest.mark.parametrize(
    "change",
    [
        lambda backend: setattr(backend, "normalizer", normalizers.Strip()),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace(Regex("x+"), "x")),
        lambda backend: setattr(backend, "normalizer", normalizers.Replace("xx", "x")),
        lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace()),
        pre(pre_tokenizers.Split("x", "removed")),
        pre(pre_tokenizers.Punctuation("removed")),
        lambda backend: setattr(backend, "model", models.BPE(vocab={"<eos>": 0, "<bos>": 1, "a": 2}, merges=[])),
        lambda backend: setattr(backend.model, "continuing_subword_prefix", "##"),
        lambda backend: setattr(backend.model, "end_of_word_suffix", "</w>"),
    ],
)
def test_where_characters_may_disappear_nothing_is_certain(change):
    assert longest_text(changed(change)) is None


def test_a_token_that_the_model_does_not_know_rejects_the_row():
    tokenizer = byte_tokenizer(bos=True)
    size = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    one = Encoder(tokenizer, load_template("plain"), True, 512, size)
    found = measure([example("a"), example("<new>"), example(output="<new>")], one, too_long="reject")
    assert isinstance(found[0], Measured) and {rejection.reason for rejection in found[1:]} == {"outside_vocabulary"}
    assert f"'<new>' has the id {size}" in found[1].detail and f"has {size} ids" in found[1].detail


def test_an_alternative_with_a_token_that_the_model_does_not_know_is_passed_over():
    tokenizer = byte_tokenizer(bos=True)
    size = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    prompts = _Prompts(Encoder(tokenizer, load_template("plain"), True, 512, size))
    prompts.learn([("Do it", ""), ("Do <new>", "")])
    assert prompts.fits(("Do it", ""), 512) and not prompts.fits(("Do <new>", ""), 512)
