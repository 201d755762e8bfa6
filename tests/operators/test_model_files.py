"""A name of the hub means one commit from the beginning of a run to its end; here with a local cache in the hub's layout."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import byte_tokenizer, random_model
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import filter_repo_objects
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from operators.model_files import hub_version
from operators.prompts.load_tokenizer import load_tokenizer
from operators.retrieval.embedder import EmbedderProblem, fingerprint, load_embedder, resolve_embedder
from operators.scoring import models
from pipeline.errors import BadRequest
from pipeline.preflight import check_models
from pipeline.read_config import validate
from pipeline.reading.admit import cached_encoder

OLD, NEW = "a" * 40, "b" * 40


class Hub:
    """The local cache of a hub, where a name can get new commits."""

    def __init__(self, folder):
        self._folder = folder

    def snapshot(self, name, commit):
        return self._folder / f"models--{name.replace('/', '--')}" / "snapshots" / commit

    def update(self, name, commit):
        """Let a name mean a commit."""
        refs = self._folder / f"models--{name.replace('/', '--')}" / "refs"
        refs.mkdir(parents=True, exist_ok=True)
        (refs / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


@pytest.fixture
def scorer(hub):
    """A Llama, of which a Qwen becomes the newest commit when the hub is updated."""
    for commit, family in ((OLD, "llama"), (NEW, "qwen")):
        random_model(family).save_pretrained(hub.snapshot("own/scorer", commit))
        byte_tokenizer(bos=commit == OLD).save_pretrained(hub.snapshot("own/scorer", commit))
    hub.update("own/scorer", OLD)
    return "own/scorer"


def static(folder, seed):
    torch.manual_seed(seed)
    SentenceTransformer(modules=[StaticEmbedding(byte_tokenizer(bos=True), embedding_dim=8)], device="cpu").save(
        str(folder)
    )


@pytest.fixture
def embedder(hub):
    for seed, commit in enumerate((OLD, NEW)):
        static(hub.snapshot("own/embedder", commit), seed)
    hub.update("own/embedder", OLD)
    return "own/embedder"


def settings(scorer, embedder="lexical"):
    return validate(
        {
            "input": "a.jsonl",
            "output": "out",
            "embedder": {"model": embedder},
            "scorer": {"model": scorer, "template": "plain", "max_length": 200},
        },
        "the test",
    )


def test_what_a_scorer_is_called_means_the_same_until_the_end(hub, scorer):
    checked = check_models(settings(scorer), "{{ instruction }}")
    hub.update(scorer, NEW)
    assert models.load_config(scorer).model_type == "qwen3"
    assert models.load_model(**checked.model("float32"), device="cpu").config.model_type == "llama"
    assert cached_encoder(**checked.encoder).tokenizer.bos_token == "<bos>"
    again = check_models(settings(scorer), "{{ instruction }}")
    assert (checked.encoder["version"], again.encoder["version"]) == (OLD, NEW)
    assert again.identity != checked.identity


def test_what_an_embedder_is_called_means_the_same_until_the_end(hub, scorer, embedder):
    checked = check_models(settings(scorer, embedder), "{{ instruction }}")
    old = load_embedder(embedder, 2, checked.embedder_version).embed(["Sort."])
    hub.update(embedder, NEW)
    assert (load_embedder(embedder, 2, checked.embedder_version).embed(["Sort."]) == old).all()
    again = check_models(settings(scorer, embedder), "{{ instruction }}")
    assert again.embedder != checked.embedder
    assert (load_embedder(embedder, 2, again.embedder_version).embed(["Sort."]) != old).any()


def answering(monkeypatch, snapshot):
    """Let the hub answer what it has: the files of a snapshot, under its commit."""
    siblings = [RepoSibling(path.relative_to(snapshot).as_posix()) for path in snapshot.rglob("*") if path.is_file()]

    def repo_info(api, name, **options):
        return SimpleNamespace(sha=snapshot.name, siblings=siblings)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)


def test_the_hub_is_asked_before_its_cache(hub, embedder, monkeypatch):
    before = fingerprint(embedder, resolve_embedder(embedder))
    answering(monkeypatch, hub.snapshot(embedder, NEW))
    assert resolve_embedder(embedder) == NEW
    assert fingerprint(embedder, NEW) != before


def test_a_machine_without_the_commit_loads_no_other(hub, scorer):
    shutil.rmtree(hub.snapshot(scorer, OLD))
    hub.update(scorer, NEW)
    for load in (load_tokenizer, models.load_config, models.load_model):
        with pytest.raises(models.ModelProblem, match="own/scorer"):
            load(scorer, version=OLD)


def test_a_scorer_of_the_hub_with_pickled_weights_alone_is_a_bad_request(hub, scorer):
    weights = hub.snapshot(scorer, OLD) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(BadRequest, match=r"scorer.model: 'own/scorer'.*pickled weights are not loaded"):
        check_models(settings(scorer), "{{ instruction }}")


def test_an_embedder_of_the_hub_with_pickled_weights_alone_is_a_bad_request(hub, scorer, embedder):
    weights = hub.snapshot(embedder, OLD) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(BadRequest, match=r"embedder.model: 'own/embedder': found pytorch_model.bin; accepted"):
        check_models(settings(scorer, embedder), "{{ instruction }}")


def test_a_file_that_the_hub_cannot_give_is_a_problem_in_words(hub, embedder, monkeypatch):
    def unreachable(name, **options):
        raise RuntimeError("connection lost\nat line 7")

    answering(monkeypatch, hub.snapshot(embedder, OLD))
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    resolve_embedder(embedder)  # which has what it needs in the cache
    shutil.rmtree(hub.snapshot(embedder, OLD))
    with pytest.raises(EmbedderProblem, match=r"'own/embedder' could not be loaded \(connection lost at line 7\)"):
        resolve_embedder(embedder)


def test_weights_are_downloaded_by_what_loads_them_alone(hub, scorer, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(
            filter_repo_objects(
                weights, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
            )
        )
        return str(hub.snapshot(name, options["revision"]))

    weights = ["model-00001-of-00001.safetensors", "consolidated.safetensors", "model.bin"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    version = models.resolve(scorer)
    load_tokenizer(scorer, version=version)
    models.check_weights(scorer, version, models.load_config(scorer, version=version))
    assert [list(files) for files in asked] == [[], []]
    models.load_model(scorer, version=version, device="cpu")
    assert list(asked[-1]) == weights[:1]


def test_a_dataset_of_the_hub_has_a_commit(monkeypatch, tmp_path):
    answering(monkeypatch, tmp_path / NEW)
    assert hub_version("own/rows", "dataset") == NEW


def test_a_dataset_that_the_hub_cannot_give_is_a_problem_in_one_line():
    with pytest.raises(OSError, match="offline mode") as problem:
        hub_version("own/rows", "dataset")
    assert "\n" not in str(problem.value)


def with_dense(folder):
    """The folder of a model of transformers and, in 2_Dense, a layer after it."""
    random_model("llama").save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"")
    types = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in types]
    (folder / "modules.json").write_text(json.dumps(modules))


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def insists_on_pickle(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "x.bin"}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (pickled, "found pytorch_model.bin; accepted: model.safetensors"),
        (lambda folder: ((folder / "modules.json").unlink(), pickled(folder)), "found pytorch_model.bin"),
        (lambda folder: pickled(folder / "2_Dense"), "2_Dense: found pytorch_model.bin"),
        (lambda folder: (folder / "model.safetensors").unlink(), "found no weights"),
        (insists_on_pickle, "found x.bin; accepted"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (lambda folder: (folder / "modules.json").write_text("[1]"), "modules.json"),
    ],
)
def test_an_embedder_that_cannot_be_loaded_safely_is_refused_before_anything_is(tmp_path, spoil, words):
    with_dense(tmp_path)
    version = resolve_embedder(str(tmp_path))
    spoil(tmp_path)
    with pytest.raises(EmbedderProblem, match=words):
        resolve_embedder(str(tmp_path))
    with pytest.raises(EmbedderProblem):
        load_embedder(str(tmp_path), 2, version)


def test_the_folder_of_an_embedder_is_held_to(tmp_path):
    static(tmp_path, 0)
    version = resolve_embedder(str(tmp_path))
    load_embedder(str(tmp_path), 2, version)
    static(tmp_path, 1)
    with pytest.raises(EmbedderProblem, match="not the one that the run began with"):
        load_embedder(str(tmp_path), 2, version)


SENTENCE = "sentence_transformers.models."


@pytest.mark.parametrize(
    ("modules", "config", "words"),
    [
        (None, {"model_type": "own_bert", "auto_map": {"AutoModel": "own.Own"}}, "a model of type 'own_bert'"),
        (f"{SENTENCE}Transformer", {"model_type": "own_bert", "auto_map": {}}, "a model of type 'own_bert'"),
        ("custom_st.Transformer", {"model_type": "bert"}, "a module of type 'custom_st.Transformer'"),
        (f"{SENTENCE}Transformer", {"model_type": "bert", "auto_map": {"AutoModel": "own.Own"}}, None),
        (f"{SENTENCE}Transformer", {"model_type": "own_bert"}, None),
    ],
)
def test_an_embedder_that_needs_code_of_its_own_is_refused_before_it_is_loaded(tmp_path, modules, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    if modules:
        (tmp_path / "modules.json").write_text(json.dumps([{"path": "", "type": modules}]))
    if words is None:  # what transformers has, or what it says itself when it loads
        resolve_embedder(str(tmp_path))
        return
    with pytest.raises(EmbedderProblem, match=f"found {words}.*code is never run for an embedder; accepted: "):
        resolve_embedder(str(tmp_path))
