"""Models load from safetensors alone, and what cannot be loaded is said in words."""

import json
import shutil

import pytest
import torch
from conftest import byte_tokenizer, random_model

from operators.prompts.load_tokenizer import load_tokenizer
from operators.retrieval.embedder import EmbedderProblem, resolve_embedder
from operators.scoring import models


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
        load_tokenizer(name)


def test_an_unreachable_embedder_names_the_offline_choice():
    with pytest.raises(EmbedderProblem, match="'lexical'"):
        resolve_embedder("sentence-transformers/no-such-model")
    with pytest.raises(EmbedderProblem, match="'lexical'"):
        resolve_embedder("./none")
    resolve_embedder("lexical")


def test_the_identity_follows_what_decides_a_likelihood(model_folder, tmp_path):
    def identity(folder=model_folder, tokenizer=None, **changes):
        settings = {"template_hash": "t", "append_eos": True, **changes}
        return models.identity(str(folder), "", tokenizer or byte_tokenizer(bos=True), **settings)

    random_model("llama").save_pretrained(tmp_path)
    assert identity() == identity() == identity(tmp_path)  # the folder's name does not count
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    others = [identity(tmp_path)]
    random_model("qwen").save_pretrained(tmp_path)
    others += [
        identity(tmp_path),
        identity(tokenizer=byte_tokenizer(bos=False)),
        identity(template_hash="u"),
        identity(append_eos=False),
        identity(trust_remote_code=True),
    ]
    assert len({identity(), *others}) == 7


def test_a_folder_that_is_another_one_than_the_run_began_with_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    version = models.resolve(str(folder))
    assert version == models.resolve(str(model_folder))
    models.load_model(str(folder), version=version, device="cpu")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-4000:] = bytes(4000)  # as another checkpoint of the same model: no name or size differs
    (folder / "model.safetensors").write_bytes(weights)
    for load in (load_tokenizer, models.load_config, models.load_model):
        with pytest.raises(models.ModelProblem, match="not the one that the run began with"):
            load(str(folder), version=version)


@pytest.mark.parametrize(
    ("file", "words"),
    [("adapter_config.json", "is an adapter"), ("consolidated.safetensors", "no .safetensors weights")],
)
def test_weights_that_would_not_be_loaded_are_refused_before(model_folder, tmp_path, file, words):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    if file == "adapter_config.json":
        (folder / file).write_text("{}")
    else:
        (folder / "model.safetensors").rename(folder / file)
    with pytest.raises(models.ModelProblem, match=words):
        models.check_weights(str(folder), "", models.load_config(str(folder)))


def test_a_configuration_that_insists_on_pickled_weights_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    torch.save(random_model("llama").state_dict(), folder / "weights.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "weights.bin"}))
    with pytest.raises(models.ModelProblem, match="pickled weights are not loaded"):
        models.check_weights(str(folder), "", models.load_config(str(folder)))
    with pytest.raises(models.ModelProblem, match="pickled weights are not loaded"):
        models.load_model(str(folder))
