"""Runs whose scorer is behind a server: the same rows as with the model here, and servers that cannot be one."""

import json

import pytest
import torch
from conftest import byte_tokenizer, random_model, write_jsonl
from logprob_servers import logprob_server
from small_runs import corpus, manifest_of, run, settings, table

from operators import json_server
from pipeline import cli, unchanged
from pipeline.engine.resources import pools
from pipeline.errors import BadRequest, RunFailed
from pipeline.preflight import check_scorer, read_template
from pipeline.storage import computed


@pytest.fixture
def served(model_folder):
    """The model of `model_folder` behind a server."""
    with logprob_server(random_model("llama"), byte_tokenizer(bos=True)) as behind:
        yield behind


def through(behind, **more):
    server = {"base_url": behind.url, "model": "served", "concurrency": 4, "tries": 2, **more}
    return {"scorer__engine": "server", "scorer__server": server}


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", corpus(30))


def test_rows_and_selection_are_those_of_the_model_here(ray_session, served, rows, model_folder, tmp_path):
    here = run(tmp_path / "here", [rows], model_folder, scorer__dtype="float32")
    there = run(tmp_path / "there", [rows], model_folder, **through(served))
    assert [row["id"] for row in table(there, "selected")] == [row["id"] for row in table(here, "selected")]
    for mine, its in zip(table(here, "scored"), table(there, "scored"), strict=True):
        assert mine["id"] == its["id"] and its["tss_pp"] == pytest.approx(mine["tss_pp"], abs=1e-4)
    told = manifest_of(there)["scorer"]
    assert told["dtype"] == "served" and told["fingerprint"] != manifest_of(here)["scorer"]["fingerprint"]
    asked = len(served.ids)
    again = run(tmp_path / "there", [rows], model_folder, **through(served, concurrency=2), seed=1)
    assert manifest_of(again)["pairs"]["computed"] == 0
    assert len(served.ids) - asked <= 10  # the trial


def test_another_model_behind_the_same_name_is_refused(ray_session, served, rows, model_folder, tmp_path):
    run(tmp_path / "out", [rows], model_folder, **through(served))
    with torch.no_grad():
        for weight in served.model.parameters():
            weight.mul_(1.1)
    with pytest.raises(
        BadRequest, match=r"another model is behind the server .* stored in this output, under the name 'served'"
    ):
        run(tmp_path / "out", [rows], model_folder, **through(served), seed=1)
    run(tmp_path / "apart", [rows], model_folder, **through(served))


def test_a_bounded_selection_asks_for_less_and_selects_the_same(ray_session, served, rows, model_folder, tmp_path):
    whole = run(tmp_path / "whole", [rows], model_folder, **through(served), alternatives__k=6)
    bounded = run(
        tmp_path / "bounded", [rows], model_folder, **through(served), alternatives__k=6, select__mode="bounded"
    )
    assert [row["id"] for row in table(bounded, "selected")] == [row["id"] for row in table(whole, "selected")]
    assert manifest_of(bounded)["pairs"]["computed"] < manifest_of(whole)["pairs"]["computed"]


def test_a_server_that_goes_away_ends_the_run_and_what_it_gave_is_kept(
    ray_session, served, rows, model_folder, tmp_path
):
    served.meddle = lambda ids, logprobs, number: 500 if number > 40 else logprobs
    more = {**through(served), "store__write_every": 0}
    with pytest.raises(RunFailed, match=r"the server at .* does not answer, after 2 tries: 500.*run the same command"):
        run(tmp_path / "out", [rows], model_folder, **more)
    served.meddle = lambda ids, logprobs, number: logprobs
    pairs = manifest_of(run(tmp_path / "out", [rows], model_folder, **more))["pairs"]
    assert 0 < pairs["resumed"] < pairs["computed"]


def test_a_row_that_the_server_refuses_is_rejected_alone(ray_session, served, rows, model_folder, tmp_path):
    long = {"instruction": "Say it.", "input": "", "output": "yes " * 40}
    write_jsonl(rows, [*corpus(12), long])
    served.meddle = lambda ids, logprobs, number: 400 if len(ids) > 150 else logprobs
    done = run(tmp_path / "out", [rows], model_folder, **through(served))
    (rejected,) = table(done, "rejected")
    assert rejected["reason"] == "scorer_failed" and "refuses the ids of a pair" in rejected["detail"]
    assert len(table(done, "scored")) == len({json.dumps(row) for row in corpus(12)})


def test_explain_asks_the_server(ray_session, served, rows, model_folder, tmp_path, capsys):
    done = run(tmp_path / "out", [rows], model_folder, **through(served))
    row = table(done, "scored")[0]
    assert cli.main(["explain", str(done), row["id"], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tokens"] and not shown["without_tokens"]


def test_a_plan_needs_no_weights(served, rows, model_folder, tmp_path, capsys):
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "tokenizer").mkdir(exist_ok=True)
            (tmp_path / "tokenizer" / file.name).write_bytes(file.read_bytes())
    flags = [
        f"scorer.model={tmp_path / 'tokenizer'}",
        "scorer.engine=server",
        f"scorer.server={{base_url: {served.url}, model: served}}",
        "scorer.max_length=200",
        "embedder.model=lexical",
        f"output={tmp_path / 'out'}",
    ]
    assert cli.main(["plan", str(rows), *(word for flag in flags for word in ("--set", flag))]) == 0
    assert "behind a server" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("behind", "more", "words"),
    [
        ({"name": "other"}, {}, r"scorer.server.model: the server at .* has no 'served'; accepted: other"),
        ({"positions": 200}, {}, "scorer.max_length: found 200, .* 200 positions, .* set it to at most 199"),
        ({"protocols": ()}, {}, "scorer.server.base_url: the server at .* tells no log-probabilities"),
        ({}, {"api_key_env": "TSS_NO_SUCH_KEY"}, "scorer.server.api_key_env: .*TSS_NO_SUCH_KEY is not set"),
    ],
)
def test_servers_that_cannot_be_a_scorer_are_refused_before_any_work(model_folder, tmp_path, behind, more, words):
    with logprob_server(random_model("llama"), byte_tokenizer(bos=True), **behind) as served:
        config = settings(tmp_path / "out", ["a.jsonl"], model_folder, **through(served, **more))
        with pytest.raises(BadRequest, match=words):
            check_scorer(config.scorer, read_template("plain"))


def test_a_server_that_is_not_up_is_named(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(json_server, "FIRST_WAIT", 0.001)
    server = {"base_url": "http://127.0.0.1:9/v1", "model": "served"}
    asked = {"scorer__engine": "server", "scorer__server": server}
    config = settings(tmp_path / "out", ["a.jsonl"], model_folder, **asked)
    with pytest.raises(
        BadRequest, match=r"scorer.server.base_url: the server at http://127.0.0.1:9/v1 does not answer"
    ):
        check_scorer(config.scorer, read_template("plain"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine": "server"}, "engine: server without server.base_url; accepted: one such as"),
        ({"server": {"base_url": "http://a/v1"}}, "server with engine: transformers; set engine: server"),
        ({"server": {"model": "other"}}, "server with engine: transformers; set engine: server"),
        (
            {"server": "sk-a-key"},
            r"scorer.server: found a value that is not shown; did you mean .* accepted: keys below it, base_url",
        ),
        (
            {"engine": "server", "server": {"base_url": "http://a/v1"}, "dtype": "float32"},
            "found dtype with engine: server",
        ),
        ({"engine": "server", "server": {"base_url": "ftp://a"}}, "expected a URL such as http://host:8000/v1"),
    ],
)
def test_keys_that_do_not_fit_are_refused(model_folder, tmp_path, more, words):
    with pytest.raises(BadRequest, match=words):
        settings(
            tmp_path / "out", ["a.jsonl"], model_folder, **{f"scorer__{key}": value for key, value in more.items()}
        )


def test_a_server_needs_no_gpu_here(model_folder, tmp_path, ray_session):
    server = {"base_url": "http://a/v1"}
    more = {"scorer__engine": "server", "scorer__server": server, "ray__gpus_per_scorer": 2}
    with pytest.raises(BadRequest, match=r"gpus_per_scorer: found 2 with scorer.engine: server"):
        pools(settings(tmp_path / "out", ["a.jsonl"], model_folder, **more))


def test_an_adapter_that_sglang_would_leave_out_is_refused(model_folder, tmp_path):
    with logprob_server(
        random_model("llama"), byte_tokenizer(bos=True), protocols=("sglang",), parent="base"
    ) as behind:
        config = settings(tmp_path / "out", ["a.jsonl"], model_folder, **through(behind))
        with pytest.raises(
            BadRequest, match="'served' is an adapter of 'base' there, and SGLang would score without it"
        ):
            check_scorer(config.scorer, read_template("plain"))


def test_a_note_that_is_none_is_refused_by_its_path(tmp_path):
    assert computed.noted_trial(str(tmp_path)) is None
    for text in ("", "[]", "{}"):
        (tmp_path / "scorer.json").write_text(text)
        with pytest.raises(BadRequest, match=r"scorer.json: is no note of a scorer behind a server"):
            computed.noted_trial(str(tmp_path))


def test_a_run_behind_a_server_is_never_called_unchanged(served, rows, model_folder, tmp_path):
    assert unchanged.key_of(settings(tmp_path / "out", [rows], model_folder, **through(served))) == ""
    assert unchanged.key_of(settings(tmp_path / "out", [rows], model_folder)) != ""
