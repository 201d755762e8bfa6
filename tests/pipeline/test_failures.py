"""What is left of a command that fails: words for a person, and the whole traceback in a log."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import cli, flow
from pipeline.arguments import make_parser
from pipeline.errors import BadRequest, RunFailed
from pipeline.storage import files

DISK = "is the disk full"


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """`tss run` that ends with an error; its exit status."""
    (tmp_path / "config.yaml").write_text(json.dumps({"input": "rows.jsonl", "output": str(tmp_path / "out")}))

    def with_(error, *options, before=()):
        def run(config, reporter, *, fresh, publishing):
            raise error

        monkeypatch.setattr(flow, "run", run)
        return cli.main([*before, "run", str(tmp_path / "config.yaml"), *options])

    return with_


def log_of(shown):
    """The text of the log that the words name."""
    return Path(re.search(r"the traceback is in (.*)", shown)[1]).read_text()


@pytest.mark.parametrize("error", [pa.ArrowInvalid("Column 2 is odd"), TypeError("no such argument"), KeyError("kind")])
def test_a_fault_of_the_program_is_not_told_as_one_of_storage(failing, capsys, error):
    assert failing(error) == 1
    shown = capsys.readouterr().err
    assert f"tss: an unexpected error, {type(error).__name__}: {error}" in shown and DISK not in shown


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), pa.ArrowException("Unknown error: slow down")]
)
def test_a_fault_of_storage_is_told_as_one(failing, capsys, error):
    assert failing(error) == 1
    shown = capsys.readouterr().err
    assert f"tss: the run failed: {error}" in shown and DISK in shown


def test_a_failed_run_leaves_its_traceback_beside_the_run(failing, tmp_path, capsys):
    failed = RunFailed("score", "the weights are gone")
    failed.__cause__ = ValueError("of the worker")
    assert failing(failed) == 1
    (log,) = (tmp_path / "out" / "failures").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-run\.log", log.name)
    assert f"tss: the traceback is in {log}\n" in capsys.readouterr().err
    text = log.read_text()
    assert "ValueError: of the worker" in text and "RunFailed: stage score" in text and "in run\n" in text


def test_a_bad_request_leaves_nothing(failing, tmp_path, capsys):
    assert failing(BadRequest("no such key")) == 2
    assert capsys.readouterr().err == "tss: no such key\n" and not (tmp_path / "out").exists()


def test_where_the_output_cannot_be_written_the_log_is_a_file_of_this_machine(failing, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "out").write_text("a file")
    assert failing(TypeError("odd")) == 1
    assert "TypeError: odd" in log_of(capsys.readouterr().err)


def test_a_command_that_fails_before_it_knows_its_output_leaves_a_log_too(failing, tmp_path, capsys, monkeypatch):
    def load(path, overrides):
        raise TypeError("odd")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pipeline.read_config.load", load)
    assert failing(None) == 1
    assert "TypeError: odd" in log_of(capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_an_output_in_an_object_store_holds_the_log(object_store, failing, tmp_path, capsys):
    assert failing(TypeError("odd"), "--set", "output=s3://bucket/failing") == 1
    place = re.search(r"the traceback is in (s3://bucket/failing/failures/.*)", capsys.readouterr().err)[1]
    assert b"TypeError: odd" in files.read(place)


def test_a_log_keeps_no_secrets(failing, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    url = "https://somebody:word@host/file.jsonl?signature=s1gn&expires=9"
    assert failing(TypeError(f"hf_0123456789 was sent to {url}"), "--debug") == 1
    text = log_of(capsys.readouterr().err)
    assert "<HF_TOKEN> was sent to https://<user>@host/file.jsonl?<options>" in text
    assert not any(secret in text for secret in ("hf_0123456789", "somebody", "s1gn"))


@pytest.mark.parametrize(("before", "after"), [([], ["--debug"]), (["--debug"], [])])
def test_debug_shows_the_traceback(failing, capsys, before, after):
    assert failing(TypeError("odd"), *after, before=before) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_without_debug_no_traceback_is_shown(failing, capsys):
    assert failing(TypeError("odd")) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_kept_as_escapes(failing, capsys):
    assert failing(TypeError("\x1b[2J"), "--debug") == 1
    shown = capsys.readouterr().err
    assert r"\x1b[2J" in shown and "\x1b" not in shown + log_of(shown)


def test_every_verb_takes_debug():
    verbs = ["run c", "refresh c", "store stats o", "select r", "demo", "report r", "submit"]
    assert all(make_parser().parse_args([*verb.split(), "--debug"]).debug for verb in verbs)
