"""Models load from safetensors alone, and what cannot be loaded is said in words."""

import pytest
import torch
from conftest import byte_tokenizer, random_model

from operators import models
from operators.embedder import EmbedderProblem, check_embedder


def test_a_folder_loads_in_float32_on_a_cpu(model_folder):
    model = models.load_model(str(model_folder), device="cpu")
    assert model.dtype == torch.float32 and not any(weight.requires_grad for weight in model.parameters())
    assert models.window(models.load_config(str(model_folder))) == 512


def test_pickled_weights_are_refused(tmp_path):
    random_model("llama").config.save_pretrained(tmp_path)
    torch.save(random_model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(models.ModelProblem, match="pickled weights are not loaded"):
        models.load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [("./none", "no such folder"), ("/none/at/all", "no such folder"), ("owner/no-such-model", "Offline")],
)
def test_what_is_not_there(name, words):
    with pytest.raises(models.ModelProblem, match=words):
        models.load_tokenizer(name)


def test_an_unreachable_embedder_names_the_offline_choice():
    with pytest.raises(EmbedderProblem, match="'lexical'"):
        check_embedder("sentence-transformers/no-such-model")
    with pytest.raises(EmbedderProblem, match="'lexical'"):
        check_embedder("./none")
    check_embedder("lexical")


def test_the_identity_follows_what_decides_a_likelihood(model_folder, tmp_path):
    def identity(folder=model_folder, tokenizer=None, **changes):
        settings = {"template_hash": "t", "append_eos": True, **changes}
        return models.identity(
            str(folder), models.load_config(str(folder)), tokenizer or byte_tokenizer(bos=True), **settings
        )

    random_model("llama").save_pretrained(tmp_path)
    assert identity() == identity() == identity(tmp_path)  # the folder's name does not count
    random_model("qwen").save_pretrained(tmp_path)
    others = [
        identity(tmp_path),
        identity(tokenizer=byte_tokenizer(bos=False)),
        identity(template_hash="u"),
        identity(append_eos=False),
    ]
    assert len({identity(), *others}) == 5
