"""As a person would call it: one clear message, exit status 2 before any work, no traceback, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_jsonl

from pipeline import advice, cli
from pipeline.interruption import Interruption

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"instruction": f"Do {i}.", "input": "", "output": f"{i}"} for i in range(5)]


def tss(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        cwd=Path(__file__).resolve().parents[2],
    )


@pytest.fixture
def request_folder(tmp_path, model_folder):
    """A request that would run."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "input": str(tmp_path / "a.jsonl"),
                "output": str(tmp_path / "out"),
                "embedder": {"model": "lexical"},
                "scorer": {"model": str(model_folder), "template": "plain", "max_length": 200},
            }
        )
    )
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "file").write_text("a file")
    return tmp_path


BAD = [
    (["--set", "scorer.modle=x"], "did you mean 'model'"),
    (["--set", "alternatives.k=eight"], "alternatives.k: found 'eight'"),
    (["--set", "input=nowhere.jsonl"], "'nowhere.jsonl': no such file"),
    (["--set", "input={folder}/empty.jsonl"], "not one byte to read"),
    (["--set", "scorer.model=./no-such-model"], "scorer.model: './no-such-model': no such folder"),
    (["--set", "scorer.model=owner/no-such-model"], "hub reachable? Offline"),
    (["--model", "models/mine"], "read as a folder, there is none at"),
    (["--embedder", "models/mine"], "read as a name of the hub, the hub did not give it"),
    (["--set", "embedder.model=sentence-transformers/all-MiniLM-L6-v2"], "set embedder.model to 'lexical'"),
    (["--set", "scorer.template=none.jinja"], "accepted: alpaca, plain, chat"),
    (["--set", "scorer.max_length=4096"], "has 512 positions"),
    (["--set", "select.budget.tokens=0"], "tokens must be a whole number of at least 1"),
    (["--set", "select.where=open(1)"], "select.where"),
    (["--set", "select.quota.b=0.5"], "select.quota.source.b: no such source; accepted: a"),
    (["--set", "alternatives.pool=none.txt"], "no such file"),
    (["--set", "output={folder}/file"], "is a file"),
    (["--set", "output={folder}/file/out"], "file is a file; accepted: a folder"),
    (["--set", "select.mode=bounded", "--set", "select.max_per.source=2"], "select: found mode: bounded with max_per"),
    (["--set", "output=hf://datasets/a/b"], "accepted: a folder, or a URL of s3"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_requests(request_folder, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("pipeline.runs.output.session", lambda address: pytest.fail("work began"))
    before = sorted(tmp_path.rglob("*"))
    status = cli.main(
        ["run", str(request_folder / "c.yaml"), *(text.format(folder=request_folder) for text in arguments)]
    )
    shown = capsys.readouterr().err
    assert status == 2 and words in shown and "Traceback" not in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["select", "{folder}"], "no latest.json"),
        (["select", "{folder}", "--set", "scorer.model=x"], "would need the model"),
        (["run", "{folder}/none.yaml"], "no such file"),
    ],
)
def test_bad_requests_of_verbs(request_folder, capsys, arguments, words):
    assert cli.main([text.format(folder=request_folder) for text in arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["repport", "out"], "'repport' is no command; did you mean report? accepted: init, run"),
        (["s3://key:secret@bucket/a"], "a URL is no command"),
        (["run", "a.yaml", "--modle", "m"], "--modle: tss run takes no such argument; did you mean --model?"),
        (["run", "a.yaml", "--k=4"], "a key is set by --set alternatives.k=...; `tss run --help` lists all"),
        (["report", "out", "--k", "4"], "--k: tss report takes no such argument; `tss report --help` lists all"),
        (["report", "out", "https://key@host/x"], "a URL: tss report takes no such argument"),
    ],
)
def test_unknown_commands_and_flags_have_a_nearest_one(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and words in shown and "key" not in shown.replace("a key is set", "")


def test_a_pointer_cannot_leave_the_folder(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "manifest.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "latest.json").write_text('{"run": "../elsewhere"}')
    assert cli.main(["select", str(tmp_path / "out")]) == 2
    assert "no published run is there" in capsys.readouterr().err


@pytest.mark.ray  # starts processes
def test_commands_that_need_no_ray_and_no_model_import_neither():
    code = "import sys, pipeline.runs.history, pipeline.runs.report; print([n for n in ('ray', 'torch') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert shown.stdout == "[]\n"


def test_an_interrupted_command_says_how_many_pairs_it_has_stored():
    arguments = cli.make_parser().parse_args(["run", "c.yaml", "--fresh"])
    for stored, words in (
        (None, "what is stored."),
        (7, "is stored: 7 pairs of this run."),
        (0, "0 pairs of this run, as"),
    ):
        Interruption.published, Interruption.stored = "", stored
        assert words in advice.after_interrupt(arguments)
    Interruption.stored = None


def test_help_is_quick_and_names_the_verbs():
    result = tss("--help")
    assert result.returncode == 0 and all(verb in result.stdout for verb in ("run", "select", "demo"))


@pytest.mark.ray  # starts processes
def test_a_process_of_its_own_says_one_thing_and_exits_with_2(request_folder):
    result = tss("run", request_folder / "c.yaml", "--set", "scorer.model=./none")
    assert result.returncode == 2 and result.stdout == "" and len(result.stderr.strip().splitlines()) == 1


def test_a_run_that_is_told_to_stop_leaves_nothing(request_folder, own_ray):
    run = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", str(request_folder / "c.yaml")],
        stderr=subprocess.PIPE,
        text=True,
        env=own_ray,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert "Ray is up" in run.stderr.readline()
    run.send_signal(signal.SIGINT)  # SIGTERM and SIGHUP: test_interruption.py
    _, shown = run.communicate(timeout=120)
    assert run.returncode == 130 and shown.splitlines()[-1].startswith(
        "tss: interrupted; nothing was published. The same command uses what is stored"
    )
    assert not (request_folder / "out").exists()


def test_a_file_that_breaks_off_is_named(ray_session, request_folder, capsys):
    (request_folder / "b.jsonl.gz").write_text("no gzip")
    path = request_folder / "b.jsonl.gz"
    assert cli.main(["run", str(request_folder / "c.yaml"), "--quiet", "--set", f"input={path}"]) == 1
    shown = capsys.readouterr().err
    assert f"stage read: {path} cannot be read whole" in shown and "Traceback" not in shown
    assert [path.name for path in (request_folder / "out").iterdir()] == ["failures"]


def test_a_stage_that_fails_is_named_and_nothing_is_published(ray_session, request_folder, capsys, monkeypatch):

    class Broken:
        def __init__(self, **settings):
            raise RuntimeError("the weights are gone")

        def __call__(self, batch):
            return batch

    monkeypatch.setattr("pipeline.scoring.score_block.ScoreBlock", Broken)
    assert cli.main(["run", str(request_folder / "c.yaml"), "--quiet"]) == 1
    shown = capsys.readouterr().err
    assert "stage score" in shown and "the weights are gone" in shown and "Traceback" not in shown
    assert "pairs that were computed are not computed again" in shown
    assert sorted(path.name for path in (request_folder / "out").iterdir()) == ["embeddings", "failures", "likelihoods"]
    (log,) = (request_folder / "out" / "failures").iterdir()
    assert "in __init__\n    raise RuntimeError" in log.read_text()  # of the worker
