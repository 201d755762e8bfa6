"""A model that is no scorer, or whose files lack weights, is refused by configuration and headers, and when it is loaded."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import byte_tokenizer, random_model
from safetensors.torch import load_file, save_file

from operators.scoring import checkpoint, models
from operators.scoring.models import ModelProblem
from pipeline.errors import BadRequest
from pipeline.preflight import check_models
from pipeline.read_config import validate

SMALL = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def without(part):
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def prefixed(prefix):
    return lambda weights: {prefix + name: weight for name, weight in weights.items()}


def wider(weights):
    return {**weights, "model.norm.weight": torch.zeros(49)}


def with_adapter(weights):
    return {**weights, "model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(2, 2)}


def changed(folder, change):
    """The folder of a model with other weights."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def configured(folder, **more):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    return folder


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of a model's folder, to be spoiled."""
    return shutil.copytree(model_folder, tmp_path / "model")


def check(folder):
    models.check_weights(str(folder), "", models.load_config(str(folder)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("lm_head"), r"lack 1 of the weights .*: lm_head.weight \(random numbers"),
        (
            without("layers.1."),
            r"lack 9 of the weights .*: model.layers.1.*, \.\. .*accepted: a checkpoint that holds them all",
        ),
        (prefixed("_orig_mod."), "lack 21 of the weights .*torch.compile"),
        (prefixed("base_model.model."), "lack 21 of the weights .*PEFT"),
        (prefixed("module."), "lack 21 of the weights .*DataParallel"),
        (wider, r"1 of its weights .* model.norm.weight has \[49\], asked for is \[48\]"),
        (with_adapter, "hold an adapter that would be left out .*merge"),
    ],
)
def test_weights_that_would_be_random_are_named_before_and_when_they_are_loaded(folder, change, words):
    check(folder)
    changed(folder, change)
    for load in (check, lambda folder: models.load_model(str(folder), device="cpu")):
        with pytest.raises(ModelProblem, match=f"scorer.model: .*{words}"):
            load(folder)


def test_weights_that_a_model_does_not_use_are_no_problem(folder):
    changed(folder, lambda weights: {**weights, "vision.patches.weight": torch.zeros(3)})
    check(folder)
    models.load_model(str(folder), device="cpu")


def test_a_head_that_is_tied_need_not_be_there(folder):
    configured(changed(folder, without("lm_head")), tie_word_embeddings=True)
    check(folder)
    model = models.load_model(str(folder), device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight


FAMILIES = {
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SMALL, head_dim=8)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**{key: value for key, value in SMALL.items() if key != "num_key_value_heads"})
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2)
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8)
    ),
    "mamba": lambda: transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=260, hidden_size=32, state_size=4, num_hidden_layers=2)
    ),
    "bert": lambda: transformers.BertLMHeadModel(
        transformers.BertConfig(
            vocab_size=260,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            is_decoder=True,
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_say_what_loading_says_whatever_names_a_family_has(family, tmp_path):
    """Names are changed, weights merged and tied on the way from a file to a model."""
    FAMILIES[family]().save_pretrained(tmp_path)
    check(tmp_path)
    models.load_model(str(tmp_path), device="cpu")
    dropped = next(
        name
        for name in load_file(tmp_path / "model.safetensors")
        if ".1." in name and name.endswith("weight") and "experts" not in name
    )
    changed(tmp_path, without(dropped))
    with pytest.raises(ModelProblem, match="its files lack 1 of the weights"):
        check(tmp_path)


def test_a_checkpoint_of_a_base_model_lacks_its_head_alone(tmp_path):
    FAMILIES["mixtral"]().model.save_pretrained(tmp_path)
    with pytest.raises(ModelProblem, match=r"lack 1 of the weights .*: lm_head.weight \("):
        check(tmp_path)


def encoder_of(kind, **more):
    return transformers.AutoConfig.for_model(kind, **more)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (encoder_of("t5"), "it is an encoder-decoder (t5)"),
        (encoder_of("bart"), "it is an encoder-decoder (bart)"),
        (encoder_of("llava"), "no causal language model of the type 'llava'"),
        (encoder_of("distilbert"), "no causal language model of the type 'distilbert'"),
        (encoder_of("roberta"), "it is a masked language model (roberta), which sees"),
        (encoder_of("xlm-roberta"), "masked language model (xlm-roberta)"),
        (encoder_of("bert"), "masked language model (bert)"),
        (encoder_of("electra"), "masked language model (electra)"),
        (encoder_of("xlnet"), "masked language model (xlnet)"),
        (encoder_of("gemma3_text", use_bidirectional_attention=True), "use_bidirectional_attention"),
    ],
)
def test_models_that_are_no_causal_language_models(config, words):
    problem = checkpoint.kind_problem(config, trust_remote_code=False)
    assert words in problem and "accepted: a causal" in problem


@pytest.mark.parametrize(
    "config", [encoder_of("llama"), encoder_of("roberta", is_decoder=True), encoder_of("gemma3_text")]
)
def test_models_that_are(config):
    assert checkpoint.kind_problem(config, trust_remote_code=False) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "install optimum"),
        ({"quant_method": "awq", "bits": 4}, "install"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "install"),
        ({"bits": 4}, "quant_method"),
    ],
)
def test_quantised_weights_without_their_package_are_refused_before_they_are_loaded(folder, settings, words):
    configured(folder, quantization_config=settings)
    with pytest.raises(ModelProblem, match=f"its weights are quantised, and cannot be loaded here: .*{words}"):
        check(folder)


def in_shards(folder):
    names = sorted(weights := load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    shards = {f"model-0000{1 + half}-of-00002.safetensors": names[half::2] for half in (0, 1)}
    for shard, inside in shards.items():
        save_file({name: weights[name] for name in inside}, folder / shard, metadata={"format": "pt"})
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [folder / shard for shard in shards]


def test_weights_in_shards_of_which_one_is_missing_or_cut_off(folder):
    _, last = in_shards(folder)
    check(folder)
    whole = last.read_bytes()
    last.write_bytes(whole[:-9])
    with pytest.raises(ModelProblem, match=r"model-00002-of-00002.safetensors is cut off: it has [\d,]+ bytes"):
        check(folder)
    last.unlink()
    with pytest.raises(
        ModelProblem, match=r"index\.json names model-00002-of-00002\.safetensors, and the model has no such"
    ):
        check(folder)


def test_of_a_model_of_the_hub_headers_are_asked_alone(folder, monkeypatch, tmp_path):
    snapshot = tmp_path / "hub" / "models--own--scorer" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shards = in_shards(changed(folder, without("lm_head")))
    for path in folder.glob("*.json"):
        shutil.copy(path, snapshot)
    listed = [SimpleNamespace(rfilename=path.name) for path in folder.iterdir()]
    monkeypatch.setattr(
        "huggingface_hub.HfApi.repo_info", lambda api, name, **options: SimpleNamespace(sha="a" * 40, siblings=listed)
    )
    asked = []

    def header(api, name, file, *, revision):
        asked.append(file)
        tensors = load_file(folder / file)
        return SimpleNamespace(
            tensors={key: SimpleNamespace(shape=list(value.shape)) for key, value in tensors.items()}
        )

    monkeypatch.setattr("huggingface_hub.HfApi.parse_safetensors_file_metadata", header)
    with pytest.raises(ModelProblem, match=r"'own/scorer': its files lack 1 of the weights .*lm_head"):
        models.check_weights("own/scorer", "a" * 40, models.load_config(str(folder)))
    assert sorted(asked) == [shard.name for shard in shards]


def requested(folder, template="plain", text="{{ instruction }}"):
    scorer = {"model": str(folder), "template": template, "max_length": 100}
    asked = {"input": "a.jsonl", "output": "out", "embedder": {"model": "lexical"}, "scorer": scorer}
    return check_models(validate(asked, "the test"), text)


@pytest.mark.parametrize("spoil", ["head", "cut", "encoder"])
def test_what_is_no_scorer_is_a_bad_request(folder, spoil):
    requested(folder)
    if spoil == "head":
        changed(folder, without("lm_head"))
    elif spoil == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    else:
        shutil.rmtree(folder)
        transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(
                vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
            )
        ).save_pretrained(folder)
        byte_tokenizer(bos=True).save_pretrained(folder)
    with pytest.raises(BadRequest, match=r"^scorer\.model: "):
        requested(folder)


def test_a_template_that_shows_no_instruction_is_a_bad_request(folder):
    with pytest.raises(BadRequest, match=r"^scorer\.template: template 'plain' gives two instructions the same prompt"):
        requested(folder, text="Answer: {{ input }}")


def test_the_dry_run_of_loading_makes_no_weights():
    """A model of any size is checked in the memory of its names."""
    config = transformers.LlamaConfig(
        vocab_size=1 << 20, hidden_size=1 << 16, intermediate_size=1 << 18, num_hidden_layers=2, num_attention_heads=64
    )
    with torch.device("meta"):
        shapes = {
            name: tuple(weight.shape) for name, weight in transformers.LlamaForCausalLM(config).state_dict().items()
        }
    assert checkpoint.header_problem(config, shapes, trust_remote_code=False) is None
    del shapes["model.embed_tokens.weight"], shapes["lm_head.weight"]
    assert "lack 2 of the weights" in checkpoint.header_problem(config, shapes, trust_remote_code=False)


def test_a_dry_run_that_fails_tells_nothing(monkeypatch):
    """A release of transformers that loads in other steps costs the early word, and no run."""

    def changed_release(*given):
        raise AttributeError("LoadStateDictConfig")

    monkeypatch.setattr(checkpoint, "_dry_run", changed_release)
    assert checkpoint.header_problem(random_model("llama").config, {}, trust_remote_code=False) is None
