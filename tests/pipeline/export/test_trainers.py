"""The files beside the data, by the fields that each trainer documents; and every export in the libraries that read it."""

import json
import runpy
from itertools import product

import pytest
import yaml
from conftest import byte_tokenizer, random_model
from datasets import load_dataset
from published_runs import PLAIN_CHAT, TOOL_CHAT, chat_row, publish_rows, scored_row

from pipeline.engine.progress import Reporter
from pipeline.export import FILE_KINDS, FORMATS
from pipeline.export.export_run import export
from pipeline.export.request import Wanted

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"n": {"type": "int"}}}}]
PLAIN = [scored_row("Sort.", "b a", "a b"), scored_row("Count."), chat_row(PLAIN_CHAT), scored_row("é\u2028x")]
MIXED = [*PLAIN, chat_row(TOOL_CHAT, extra={"tools": TOOLS}), scored_row("Later.")]
LLAMA_FACTORY_COLUMNS = {"prompt", "query", "response", "history", "system", "messages", "tools"}
LLAMA_FACTORY_TAGS = {
    "role_tag",
    "content_tag",
    "user_tag",
    "assistant_tag",
    "observation_tag",
    "function_tag",
    "system_tag",
}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """What makes an export of rows in a folder of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(rows, to, suffix="jsonl", **more):
        run = publish_rows(tmp_path / "out", rows, columns=["tools"] if rows is MIXED else [])
        folder = tmp_path / f"{to}-{suffix}"
        export(str(run), Wanted(to, suffix=suffix, output=str(folder), **more), Reporter(quiet=True))
        return folder

    return make


def columns_of(to, *more):
    turns = {"messages": "messages", "sharegpt": "conversations"}
    texts = {"alpaca": ["instruction", "input", "output"]}
    return [*texts.get(to, [turns[to]] if to in turns else ["prompt", "completion"]), *more]


@pytest.mark.parametrize(("to", "suffix"), product(FORMATS, FILE_KINDS))
def test_every_export_loads_with_datasets_by_its_folder(exported, to, suffix):
    folder = exported(MIXED, to, suffix, weights=True)
    rows = load_dataset(str(folder), split="train")
    tools = ["tools"] if to in ("messages", "sharegpt", "prompt-completion") else []
    assert rows.column_names == columns_of(to, *tools, "weight") and len(rows) == len(MIXED)
    if to == "messages":
        assert json.dumps(rows[2]["messages"]) == json.dumps(PLAIN_CHAT)
        assert json.dumps(rows[4]["messages"]) == json.dumps(TOOL_CHAT)
        assert rows[4]["tools"] == TOOLS and rows[0]["tools"] is None
    if to == "alpaca":
        assert rows[0] == {"instruction": "Sort.", "input": "b a", "output": "a b", "weight": 1.0}


@pytest.mark.parametrize(("to", "suffix"), product(FORMATS, FILE_KINDS))
def test_every_export_loads_with_pandas(exported, to, suffix):
    pandas = pytest.importorskip("pandas")
    path = exported(PLAIN, to, suffix) / f"train.{suffix}"
    frame = pandas.read_json(path, lines=True) if suffix == "jsonl" else pandas.read_parquet(path)
    assert list(frame.columns) == columns_of(to) and len(frame) == len(PLAIN)


@pytest.mark.parametrize(("to", "suffix"), product(FORMATS, FILE_KINDS))
def test_every_export_loads_with_polars_and_duckdb(exported, to, suffix):
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    path = exported(PLAIN, to, suffix) / f"train.{suffix}"
    frame = polars.read_ndjson(path) if suffix == "jsonl" else polars.read_parquet(path)
    table = duckdb.sql(f"select * from '{path}'")
    assert frame.columns == table.columns == columns_of(to) and len(frame) == len(table) == len(PLAIN)
    if to == "messages":
        assert frame["messages"][2].to_list() == table.fetchall()[2][0] == PLAIN_CHAT


@pytest.mark.parametrize("suffix", FILE_KINDS)
def test_an_export_loads_with_ray(ray_session, exported, suffix):
    import ray.data

    path = str(exported(PLAIN, "messages", suffix) / f"train.{suffix}")
    rows = (ray.data.read_json(path, lines=True) if suffix == "jsonl" else ray.data.read_parquet(path)).take_all()
    assert list(rows[2]["messages"]) == PLAIN_CHAT and len(rows) == len(PLAIN)


@pytest.mark.parametrize("to", FORMATS)
def test_llama_factory_finds_its_columns_and_tags(exported, to):
    folder = exported(MIXED, to, by_source=True)
    if to == "prompt-completion":
        assert not (folder / "dataset_info.json").exists() and "no loader" in (folder / "README.md").read_text()
        return
    (entry,) = json.loads((folder / "dataset_info.json").read_text()).values()
    rows = [json.loads(line) for line in (folder / entry["file_name"]).read_text().splitlines()[:1]]
    assert entry["formatting"] == ("sharegpt" if to in ("messages", "sharegpt") else "alpaca")
    assert set(entry["columns"]) <= LLAMA_FACTORY_COLUMNS and set(entry["columns"].values()) <= set(rows[0])
    if to == "messages":
        assert set(entry["tags"]) == LLAMA_FACTORY_TAGS  # where tags are given, those that lack have no default
        turn = rows[0]["messages"][0]
        assert turn[entry["tags"]["role_tag"]] == entry["tags"]["user_tag"] and entry["tags"]["content_tag"] in turn
    if to == "sharegpt":
        assert entry["columns"]["tools"] == "tools" and "tags" not in entry


@pytest.mark.parametrize("to", FORMATS)
def test_axolotl_finds_its_block(exported, to):
    folder = exported(MIXED, to, "parquet")
    if to == "prompt-completion":
        assert not (folder / "axolotl.yaml").exists()
        return
    (block,) = yaml.safe_load((folder / "axolotl.yaml").read_text())["datasets"]
    assert block["path"] == str(folder / "train.parquet") and block["ds_type"] == "parquet"
    if to in ("messages", "sharegpt"):
        assert block["type"] == "chat_template" and block["field_messages"] == columns_of(to)[0]
        assert block["message_field_training"] == "train"
        keys = {"messages": ("role", "content"), "sharegpt": ("from", "value")}[to]
        assert tuple(block["message_property_mappings"][key] for key in ("role", "content")) == keys
    elif to == "alpaca":
        assert block["type"] == "alpaca"
    else:
        assert block["type"]["field_instruction"] == "prompt" and block["type"]["field_output"] == "completion"


@pytest.mark.parametrize(("to", "suffix"), product([to for to in FORMATS if to != "sharegpt"], FILE_KINDS))
def test_the_script_for_trl_loads_the_rows(exported, to, suffix):
    folder = exported(MIXED, to, suffix, weights=to == "messages")
    rows = runpy.run_path(str(folder / "trl_sft.py"), run_name="script")["load"]()
    assert len(rows) == len(MIXED)
    if to == "messages":
        assert json.dumps(rows[4]["messages"]) == json.dumps(TOOL_CHAT)
    if to == "alpaca":
        assert rows[0]["prompt"] == [{"role": "user", "content": "Sort.\n\nb a"}]
        assert rows[0]["completion"] == [{"role": "assistant", "content": "a b"}]


def test_turns_that_differ_far_into_a_file_load_by_the_script(exported):
    # Without features, keys are looked for in the first 10 MiB.
    long = [PLAIN_CHAT[0], {"role": "assistant", "content": "x" * 400_000}]
    rows = [*[chat_row(long)] * 30, chat_row(TOOL_CHAT)]
    folder = exported(rows, "messages")
    loaded = runpy.run_path(str(folder / "trl_sft.py"), run_name="script")["load"]()
    assert json.dumps(loaded[30]["messages"]) == json.dumps(TOOL_CHAT)


@pytest.mark.parametrize("to", ["alpaca", "messages", "prompt-completion", "completion"])
def test_trl_trains_on_it(exported, tmp_path, to):
    trl = pytest.importorskip("trl")
    folder = exported(MIXED if to != "messages" else PLAIN, to)
    rows = runpy.run_path(str(folder / "trl_sft.py"), run_name="script")["load"]()
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.pad_token = tokenizer.eos_token
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "trained"), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        bf16=False, max_length=256, save_strategy="no", dataset_num_proc=None, logging_strategy="no",
    )  # fmt: skip
    trainer = trl.SFTTrainer(random_model("llama"), args=settings, train_dataset=rows, processing_class=tokenizer)
    made = trainer.train_dataset[0]
    text = tokenizer.decode(made["input_ids"])
    if to == "completion":
        assert text.startswith("<bos>Below is an instruction") and text.endswith("### Response:\na b<eos>")
    else:
        assert text.startswith("<bos>[user]Sort.\n\nb a[assistant]a b")
    if "completion_mask" in made:
        trained = [token for token, mask in zip(made["input_ids"], made["completion_mask"], strict=True) if mask]
        assert tokenizer.decode(trained).startswith("a b")
    assert trainer.train().global_step == 2


def test_files_of_several_sources_load_as_one(exported):
    rows = [scored_row(f"{i}", source=source) for i, source in enumerate(["a", "b/c", "a"])]
    folder = exported(rows, "alpaca", by_source=True)
    assert sorted(load_dataset(str(folder), split="train")["instruction"][:]) == ["0", "1", "2"]
    assert len(json.loads((folder / "dataset_info.json").read_text())) == 2
    assert len(runpy.run_path(str(folder / "trl_sft.py"), run_name="script")["load"]()) == 3
