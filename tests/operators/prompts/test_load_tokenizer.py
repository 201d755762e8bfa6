"""A tokenizer is the same, whether transformers chooses its class or is told of the choice; told wrongly, it chooses anew."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED, byte_tokenizer, random_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from operators.prompts.load_tokenizer import Chosen, choice_of, load_tokenizer
from pipeline.demo import MODEL

ROOT = Path(__file__).resolve().parents[3]
TEXT = "Sort the words:  b\n\ta, 12 naïve 日本語 <eos>"


def as_bytes(kind: type) -> object:
    """A tokenizer of a class that models name, with a vocabulary of bytes."""
    known = {token: i for i, token in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    return kind(vocab=known, merges=[], eos_token="<eos>", unk_token="<eos>")


@pytest.fixture(
    params=[
        lambda: byte_tokenizer(bos=True),
        lambda: byte_tokenizer(bos=False),
        lambda: as_bytes(GPT2Tokenizer),
        lambda: as_bytes(Qwen2Tokenizer),
        lambda: as_bytes(LlamaTokenizer),
    ],
    ids=["bos", "no bos", "gpt2", "qwen2", "llama"],
)
def folder(request, tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    request.param().save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_class_that_was_chosen_gives_the_same_tokenizer(folder):
    tokenizer = load_tokenizer(folder)
    again = load_tokenizer(folder, chosen=choice_of(tokenizer))
    assert type(again) is type(tokenizer)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again(TEXT) == tokenizer(TEXT) and again.special_tokens_map == tokenizer.special_tokens_map


def test_a_choice_that_does_not_hold_here_is_made_again(folder):
    tokenizer = load_tokenizer(folder)
    other = choice_of(byte_tokenizer(bos=True))._replace(digest="of another")
    assert type(load_tokenizer(folder, chosen=other)) is type(tokenizer)


def test_code_of_a_model_and_what_takes_no_trial_text_are_not_told_of():
    class Own(PreTrainedTokenizerFast):
        pass

    words = Tokenizer(models.WordLevel({"a": 0}))
    assert choice_of(Own(tokenizer_object=byte_tokenizer(bos=True).backend_tokenizer)) is None
    assert choice_of(PreTrainedTokenizerFast(tokenizer_object=words)) is None


@pytest.mark.ray  # slow
@pytest.mark.parametrize("model", [MODEL, SHARED / "models" / "tiny"], ids=["demo", "tiny"])
def test_a_process_that_is_told_needs_no_torch(model):
    if not model.is_dir():
        pytest.skip("the folder of models is not here")
    chosen = choice_of(load_tokenizer(str(model)))
    code = (
        "import json, sys\nfrom operators.prompts.load_tokenizer import Chosen, load_tokenizer\n"
        "model, chosen = json.loads(sys.argv[1])\ntokenizer = load_tokenizer(model, chosen=Chosen(*chosen))\n"
        "assert 'torch' not in sys.modules\nprint(json.dumps(tokenizer('Sort: b a.')['input_ids']))"
    )
    command = [sys.executable, "-c", code, json.dumps([str(model), chosen])]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == load_tokenizer(str(model))("Sort: b a.")["input_ids"]
    assert isinstance(chosen, Chosen)
