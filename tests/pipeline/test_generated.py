"""Runs whose alternatives are written: by a server of the test, and by a model in a worker."""

import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_servers import chat_server
from conftest import write_jsonl
from small_runs import corpus, manifest_of, refresh, reselect, table
from small_runs import run as run_with

from operators.retrieval.embedder import LexicalEmbedder, embed_folded
from operators.retrieval.parse_instructions import parse_instructions
from operators.schema import ALTERNATIVE, GENERATED
from pipeline import cli
from pipeline.check_generator import check_generator
from pipeline.config import Alternatives, Generator
from pipeline.errors import BadRequest, RunFailed
from pipeline.scoring.rescore import rescore_part
from pipeline.storage import computed
from pipeline.storage.parts import write_table
from pipeline.storage.records import BlockPart, record_table

# Workers have the environment that this process had when Ray was started.
VARIABLE, KEY = "TSS_TEST_GENERATOR_KEY", "sk-the-key-of-these-tests"
os.environ[VARIABLE] = KEY
INPUTS = {"a b c", "3 1 2", "x y"}
WRITTEN = ["Say {} in French.", "Count the letters of {}.", "sort THE words", "Name {} as a list."]


def texts_for(input):
    return [text.format(input) for text in WRITTEN]


def input_of(prompt):
    return re.search(r"<text>\n(.*)\n</text>", prompt)[1]


def writes(body, number=0):
    texts = texts_for(input_of(body["messages"][0]["content"]))
    return "Sure, here they are:\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def settings_of(url, **more):
    generator = {
        "engine": "openai",
        "model": "writer",
        "base_url": url,
        "api_key_env": VARIABLE,
        "count": 4,
        "tries": 5,
    }
    return {
        "alternatives__source": "generated",
        "alternatives__generator": {**generator, **more},
        "store__write_every": 0,
    }


def run(output, rows, model, url, **more):
    return run_with(output, [rows], model, **{**settings_of(url), **more})


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "rows.jsonl", corpus(30))


@pytest.fixture(scope="module")
def served():
    with chat_server(
        lambda body, number: (429, {"Retry-After": "0"}) if number == 1 else writes(body), key=KEY
    ) as server:
        yield server


@pytest.fixture(scope="module")
def whole(ray_session, rows, served, model_folder, tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "out", rows, model_folder, served.url)


def test_rows_have_what_was_written_for_their_input(whole, served):
    assert sorted(map(input_of, served.prompts())) == sorted(
        [*INPUTS, input_of(served.prompts()[0])]
    )  # the first one twice
    embedder, seen = LexicalEmbedder(), set()
    for row in table(whole, "scored"):
        if not row["input"]:
            assert {one["origin"] for one in row["alternatives"]} == {"retrieved"} and row["n_alternatives"] == 3
            continue
        seen.add(row["input"])
        expected = [text for text in texts_for(row["input"]) if text.lower() != row["instruction"].lower().strip(".")][
            :3
        ]
        assert [one["instruction"] for one in row["alternatives"]] == expected and row["n_alternatives"] == 3
        own, *others = embed_folded(embedder, [row["instruction"], *expected])
        assert {one["origin"] for one in row["alternatives"]} == {"generated"}
        for one, vector in zip(row["alternatives"], others, strict=True):
            assert one["similarity"] == pytest.approx(float(np.dot(own, vector)), abs=1e-6)
            assert one["loglik_mean"] is not None
    assert seen == INPUTS


def test_the_manifest_says_who_wrote_and_how_much(whole, served):
    known = manifest_of(whole)
    scored = table(whole, "scored")
    assert known["alternatives"] == {
        "requested": 3,
        "stored": 0,
        "computed": 3,
        "resumed": 0,
        "refused": 0,
        "too_few": 0,
        "distinct": 10,
        "tokens": 21,
        "without_input": sum(not row["input"] for row in scored),
        "short": 0,
    }
    generator = known["generator"]
    assert (generator["model"], generator["engine"], generator["revision"]) == ("writer", "openai", "/models/of-it")
    assert (
        "{input}" in generator["prompt_text"] and len(generator["prompt_hash"]) == len(generator["fingerprint"]) == 32
    )
    assert generator["settings"]["count"] == 4 and generator["settings"]["seed"] == 0
    assert "10 instructions for 3 inputs by writer" in cli_report(whole)


def cli_report(done):
    from pipeline.runs import report

    return report.of_run(str(done)).text


def test_the_key_is_sent_and_kept_nowhere(whole, served):
    assert set(served.keys) == {f"Bearer {KEY}"}
    files = [path for path in whole.parents[1].rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_refresh_asks_for_new_inputs_alone(whole, rows, served, model_folder, tmp_path):
    output = shutil.copytree(whole.parents[1], tmp_path / "out")
    more = write_jsonl(
        tmp_path / "more.jsonl", [*corpus(30), {"instruction": "Copy it.", "input": "new", "output": "new"}]
    )
    before = len(served.bodies)
    done = refresh(output, [more], model_folder, **settings_of(served.url))
    assert [input_of(prompt) for prompt in served.prompts()[before:]] == ["new"]
    account = manifest_of(done)["alternatives"]
    assert (account["requested"], account["stored"], account["computed"]) == (4, 3, 1)
    known = {row["id"]: row for row in table(whole, "scored")}
    for row in table(done, "scored"):
        assert row["input"] == "new" or row["alternatives"] == known[row["id"]]["alternatives"]
    # Nothing has changed since: not even the table of inputs is made.
    again = refresh(output, [more], model_folder, **settings_of(served.url))
    assert len(served.bodies) == before + 1
    assert manifest_of(again)["alternatives"]["stored"] == 4 and manifest_of(again)["pairs"]["computed"] == 0
    # Another temperature is another generator.
    asked = settings_of(served.url, temperature=0.1)
    other = run_with(output, [more], model_folder, **asked)
    assert manifest_of(other)["alternatives"]["computed"] == 4 and len(served.bodies) == before + 5


def test_a_server_that_goes_away_is_named_and_a_rerun_asks_for_what_is_missing(
    ray_session, whole, rows, model_folder, tmp_path
):
    def answer(body, number):
        return writes(body) if number <= answers else (503, {})

    answers = 2
    with chat_server(answer, key=KEY) as server:
        asked = settings_of(server.url, tries=1, concurrency=1)
        with pytest.raises(RunFailed, match=f"stage generate: the server at {server.url} does not answer"):
            run_with(tmp_path / "out", [rows], model_folder, **asked)
        assert len(server.bodies) == 3
        (begun,) = (tmp_path / "out" / ".work").iterdir()
        answers = 100
        done = run_with(tmp_path / "out", [rows], model_folder, **asked)
        assert done.name == begun.name
        assert len(server.bodies) == 4 and sorted(map(input_of, server.prompts()[:2] + server.prompts()[3:])) == sorted(
            INPUTS
        )
    account = manifest_of(done)["alternatives"]
    assert (account["stored"], account["computed"], account["resumed"]) == (0, 3, 2)
    got, expected = ({row["id"]: row for row in table(one, "scored")} for one in (done, whole))
    assert got == expected


def test_both_has_written_ones_first_and_retrieved_ones_where_they_are_too_few(
    ray_session, rows, model_folder, served, tmp_path
):
    done = run(tmp_path / "out", rows, model_folder, served.url, alternatives__source="both", alternatives__k=6)
    with_input = [row for row in table(done, "scored") if row["input"]]
    for row in with_input:
        origins = [one["origin"] for one in row["alternatives"]]
        assert len(origins) == 6 and origins == sorted(origins) and origins.count("generated") in (3, 4)
        assert len({one["instruction"] for one in row["alternatives"]}) == 6
    short = sum(row["n_alternatives"] < 6 for row in table(done, "scored"))
    assert manifest_of(done)["alternatives"]["short"] == short


def test_rows_with_too_few_are_counted(ray_session, rows, model_folder, tmp_path):
    def answer(body, number):
        return (400, {}) if "x y" in body["messages"][0]["content"] else "1. Say it in French."

    with chat_server(answer) as server:
        asked = settings_of(server.url, api_key_env=None, count=3)
        done = run_with(tmp_path / "out", [rows], model_folder, **asked)
    account, scored = manifest_of(done)["alternatives"], table(done, "scored")
    assert (account["refused"], account["too_few"], account["distinct"]) == (1, 3, 1)
    assert account["short"] == sum(bool(row["input"]) for row in scored) == len(scored) - account["without_input"]
    assert {row["n_alternatives"] for row in scored if row["input"] == "x y"} == {0}
    assert manifest_of(done)["counts"]["unscored"] == sum(row["n_alternatives"] == 0 for row in scored)


def test_a_model_in_a_worker_writes_the_same_texts_twice(ray_session, rows, model_folder, tmp_path):
    generator = {
        "model": str(model_folder),
        "max_new_tokens": 40,
        "batch_size": 2,
        "prompt": "<text>\n{input}\n</text>{k}",
    }
    asked = {"alternatives__source": "generated", "alternatives__generator": generator}
    stores = []
    for name, fresh in (("a", False), ("b", False), ("a", True)):
        done = run_with(tmp_path / name, [rows], model_folder, fresh=fresh, **asked)
        known = manifest_of(done)
        assert known["alternatives"]["computed"] == 3 and known["generator"]["settings"]["dtype"] == "float32"
        folder = computed.generator_folder(str(tmp_path / name), known["generator"]["fingerprint"])
        parts = [computed.read(path, GENERATED) for run, path, _ in computed.by_run(folder) if run == known["run"]]
        stores.append(sorted((row["text"], row["finished"]) for part in parts for row in part.to_pylist()))
    assert stores[0] == stores[1] == stores[2] and len(set(stores[0])) == 3
    texts = {text for answer, whole in stores[0] for text in parse_instructions(answer, 3, finished=whole)}
    shown = {
        one["instruction"]
        for row in table(done, "scored")
        for one in row["alternatives"]
        if one["origin"] == "generated"
    }
    assert shown <= texts
    with pytest.raises(BadRequest, match=r"alternatives\.generator\.max_new_tokens: found 500"):
        run_with(
            tmp_path / "c",
            [rows],
            model_folder,
            **{**asked, "alternatives__generator": {**generator, "max_new_tokens": 500}},
        )


def test_upkeep_knows_what_was_generated(whole, served, rows, model_folder, tmp_path, capsys):
    output = shutil.copytree(whole.parents[1], tmp_path / "out")
    assert cli.main(["store", "stats", str(output)]) == 0
    assert re.search(r"generated    [0-9a-f]{32}  3 parts, .* 3 inputs by writer\n", capsys.readouterr().out)
    assert cli.main(["store", "compact", str(output), "--quiet"]) == 0
    assert "3 parts became 1" in capsys.readouterr().out
    before = len(served.bodies)
    run(output, rows, model_folder, served.url)
    assert len(served.bodies) == before
    retrieved = run_with(output, [rows], model_folder, keep_runs=1)
    assert "generator" not in manifest_of(retrieved) and "alternatives" not in manifest_of(retrieved)
    run_with(output, [rows], model_folder, keep_runs=1)
    assert cli.main(["store", "prune", str(output), "--quiet"]) == 0
    assert "removed: no published run uses it (3 rows)" in capsys.readouterr().out
    assert not list((output / "generated").glob("*"))


def test_a_selection_from_such_a_run_asks_nobody(whole, served):
    before = len(served.bodies)
    done = reselect(whole, select__budget__examples=3)
    assert len(served.bodies) == before
    account = manifest_of(done)["alternatives"]
    assert (account["computed"], account["stored"]) == (0, 3) and manifest_of(done)["generator"]["model"] == "writer"


def test_a_run_of_a_release_without_origins_is_scored_again(whole, tmp_path):
    (path,) = (whole / "scored").iterdir()
    rows = pq.read_table(path)
    older = pa.struct([field for field in ALTERNATIVE if field.name != "origin"])
    plain = [
        [{key: value for key, value in one.items() if key != "origin"} for one in row]
        for row in rows["alternatives"].to_pylist()
    ]
    place = rows.column_names.index("alternatives")
    rows = rows.set_column(place, "alternatives", pa.array(plain, pa.list_(older)))
    batch = record_table([BlockPart(0, write_table(str(tmp_path / "old.parquet"), rows))]).rename_columns(["item"])
    score = manifest_of(whole)["config"]["score"]
    (record,) = rescore_part(batch, work=str(tmp_path), score=score, seed=0)["record"].to_pylist()
    again = pq.read_table(json.loads(record)["part"]["path"])
    assert {one["origin"] for row in again["alternatives"].to_pylist() for one in row} == {"retrieved"}
    assert again["tss_pp"].equals(rows["tss_pp"])


def test_what_cannot_write_is_refused_before_any_work(rows, served, model_folder, tmp_path):
    plain = shutil.copytree(model_folder, tmp_path / "plain")
    for name in ("chat_template.jinja",):
        (plain / name).unlink(missing_ok=True)
    config = json.loads((plain / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(config))
    cases = [
        ({"base_url": None}, "engine: openai without base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url: found 'ftp://host/v1': expected a URL such as"),
        ({"base_url": "http://user:word@host/v1"}, "a URL with credentials in it"),
        ({"api_key_env": KEY}, "expected the name of an environment variable"),
        ({"api_key_env": "TSS_NO_SUCH_KEY"}, "api_key_env: the environment variable TSS_NO_SUCH_KEY is not set"),
        ({"api_key_env": None}, "base_url: the server at http.* answers 401"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "base_url: the server at http://127.0.0.1:9/v1 does not answer"),
        ({"model": "reader"}, r"model: 'reader' is not listed \(listed: writer\), and the server at .* answers 404"),
        ({"prompt": "Write {k} instructions."}, r"prompt: .*has no \{input\}"),
        ({"temperature": -1}, "temperature: found -1"),
        (
            {"engine": "transformers", "model": str(tmp_path / "nowhere")},
            "^alternatives.generator.model: .* no such folder",
        ),
        ({"engine": "transformers", "model": str(plain)}, "^alternatives.generator.model: .* has no chat template"),
    ]
    for more, words in cases:
        with pytest.raises(BadRequest, match=words) as problem:
            run_with(tmp_path / "out", [rows], model_folder, **settings_of(served.url, **more))
        assert "scorer.model" not in str(problem.value)
    assert not (tmp_path / "out").exists() and len(cases) == 12


def test_a_server_that_lists_nothing_but_answers_is_taken(model_folder):
    """As those do that load a model when it is first asked for."""
    with chat_server(lambda body, number: "Yes.", lists=False) as served:
        asked = Alternatives(
            source="generated", generator=Generator(engine="openai", base_url=served.url, model="writer")
        )
        assert check_generator(asked, 0).version == "" and len(served.bodies) == 1
        other = asked.generator.model_copy(update={"model": "reader"})
        with pytest.raises(BadRequest, match=r"'reader' is not listed \(listed: none\), and the server .* answers 404"):
            check_generator(asked.model_copy(update={"generator": other}), 0)
