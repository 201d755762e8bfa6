"""A text depends on its prompt, its key and the seed, and on nothing that is written beside it."""

import pytest
import torch
from conftest import byte_tokenizer, random_model

from operators.hashing import content_hash
from operators.retrieval.generator import PAD_TO, DrawByKey, Generator, Request, uniform

TEXTS = ["a b c", "3 1 2", "The moon is up. " * 5, "x" * (PAD_TO - 1), "x" * PAD_TO, "y", "z z", "a b d"]


@pytest.fixture(scope="module")
def parts():
    return random_model("llama"), byte_tokenizer(bos=True)


def generator(parts, **more):
    model, tokenizer = parts
    settings = {"batch_size": 4, "max_new_tokens": 12, "temperature": 1.0, "seed": 3, "window": 512, **more}
    return Generator(model, tokenizer, **settings)


def written(generator, tokenizer, texts):
    requests = [Request(content_hash(text), tokenizer(text)["input_ids"]) for text in texts]
    answers = {}
    for batch in generator.batches(requests):
        answers.update(zip((request.key for request in batch), generator.write(batch), strict=True))
    return [answers[request.key] for request in requests]


def test_no_text_depends_on_those_beside_it(parts):
    whole = written(generator(parts), parts[1], TEXTS)
    assert len({answer.text for answer in whole}) == len(TEXTS)
    assert written(generator(parts), parts[1], TEXTS) == whole
    assert written(generator(parts), parts[1], TEXTS[::-1]) == whole[::-1]
    assert [written(generator(parts), parts[1], [text])[0] for text in TEXTS] == whole
    torch.manual_seed(99)
    assert written(generator(parts), parts[1], TEXTS[1:4]) == whole[1:4]


def test_another_seed_or_key_draws_another_text(parts):
    tokenizer = parts[1]
    (text,) = written(generator(parts), tokenizer, TEXTS[:1])
    assert written(generator(parts, seed=4), tokenizer, TEXTS[:1]) != [text]
    own = generator(parts)
    (batch,) = own.batches([Request(b"other", tokenizer(TEXTS[0])["input_ids"])])
    assert own.write(batch) != [text]


def test_at_temperature_0_it_is_the_likeliest_continuation(parts):
    model, tokenizer = parts
    (answer,) = written(generator(parts, temperature=0.0, max_new_tokens=6), tokenizer, TEXTS[:1])
    ids = tokenizer(TEXTS[0])["input_ids"]
    for _ in range(6):
        ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    assert answer.text == tokenizer.decode(ids[-6:], skip_special_tokens=True)


def test_tokens_are_drawn_from_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2]]))
    keys = [i.to_bytes(4, "little") for i in range(4000)]
    drawn = DrawByKey(keys, 0, 1.0)(torch.zeros(len(keys), 1), logits.repeat(len(keys), 1))
    assert (drawn.isfinite().sum(dim=1) == 1).all()
    counts = drawn.isfinite().float().mean(dim=0)
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.03, rtol=0)
    draws = torch.tensor([uniform(0, b"key", step) for step in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.02


def test_an_answer_ends_at_the_end_token_and_says_whether_it_did(parts):
    model, tokenizer = parts
    own = generator(parts, max_new_tokens=40)
    end = tokenizer.eos_token_id

    def likes_to_end(input_ids=None, **more):
        output = forward(input_ids=input_ids, **more)
        output.logits[..., end] += 4.0
        return output

    forward = model.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", likes_to_end)
        answers = written(own, tokenizer, TEXTS)
    assert any(answer.finished for answer in answers)
    for answer in answers:
        assert "<eos>" not in answer.text and answer.tokens <= 40
        assert answer.finished or answer.tokens == 40


def test_a_prompt_that_leaves_no_room_is_refused(parts):
    short, long = written(generator(parts, window=PAD_TO * 2 + 12), parts[1], ["a", "b" * PAD_TO * 2])
    assert short.text is not None and long.text is None


def test_a_model_s_own_settings_of_generation_move_nothing(parts):
    model, tokenizer = parts
    whole = written(generator(parts), tokenizer, TEXTS[:3])
    model.generation_config.update(num_beams=3, do_sample=True, repetition_penalty=9.0, max_length=5, top_k=1)
    assert written(generator(parts), tokenizer, TEXTS[:3]) == whole


def test_memory_that_runs_out_is_told_with_the_key(parts, monkeypatch):
    own = generator(parts)

    def full(**settings):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(parts[0], "generate", full)
    with pytest.raises(RuntimeError, match=r"alternatives\.generator\.batch_size lower"):
        written(own, parts[1], TEXTS[:1])
