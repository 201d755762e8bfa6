"""The runs of an output in a list, another one made current, and the run that a refresh compares with."""

import json
import shutil
from dataclasses import replace

import pytest
from published_runs import RUN, publish_rows, scored_row

from pipeline import cli, read_config
from pipeline.errors import BadRequest
from pipeline.runs import history, open_run, publish
from pipeline.runs.manifest import sealed

OLD, NEW, WHAT_IF = RUN, "20260102T000000-000001", "20260103T000000-000002"


@pytest.fixture
def output(tmp_path):
    """A run, a later one of the same settings, and a what-if of that, which is current."""
    run = publish_rows(tmp_path, [scored_row(salt=i) for i in range(5)], selected=[0, 1])
    manifest = open_run.read_manifest(str(run))
    config = {**manifest.config, "select": {**manifest.config["select"], "budget": {"examples": 1}}}
    for name, more in (
        (NEW, {"label": "best so far"}),
        (WHAT_IF, {"config": config, "parent": NEW}),
    ):
        shutil.copytree(run, run.parent / name)
        (run.parent / name / "manifest.json").write_text(sealed(replace(manifest, run=name, **more)))
    (tmp_path / "latest.json").write_text(json.dumps({"run": f"runs/{WHAT_IF}", "fence": 3}))
    return tmp_path


def current(output):
    return json.loads((output / "latest.json").read_text())


def test_runs_are_listed_with_what_made_them(output, capsys):
    assert cli.main(["runs", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == [" ", " ", "*"]
    assert all(f" {name}  2026-01-0" in line for name, line in zip((OLD, NEW, WHAT_IF), lines, strict=True))
    assert "2 of 5 rows, 90 tokens" in lines[0] and lines[1].endswith("[best so far]")
    assert f"select from {NEW} (select.budget" in lines[2] and '"examples": 1' in lines[2]


def test_a_damaged_run_is_listed_as_one(output):
    (output / "runs" / NEW / "manifest.json").write_text("{")
    assert "cannot be used" in history.runs(str(output)).text.splitlines()[1]


@pytest.mark.parametrize("name", [OLD, OLD[:9], f"runs/{OLD}", "{output}/runs/" + OLD])
def test_use_makes_an_older_run_current(output, capsys, name):
    assert cli.main(["use", str(output), name.format(output=output)]) == 0
    assert current(output) == {"run": f"runs/{OLD}", "fence": 4}
    shown = capsys.readouterr().out
    assert str(output / "runs" / OLD) in shown and WHAT_IF in shown
    assert not (output / ".lock").exists()
    assert cli.main(["use", str(output), OLD]) == 0
    assert current(output)["fence"] == 4 and "as before" in capsys.readouterr().out


def test_use_takes_a_label(output):
    history.use(str(output), "best so far")
    assert current(output)["run"] == f"runs/{NEW}"


@pytest.mark.parametrize(("name", "words"), [("2026", "several runs"), ("other", "no run of"), ("", "no run of")])
def test_use_names_the_runs_that_there_are(output, name, words):
    with pytest.raises(BadRequest, match=rf"{words}.*{WHAT_IF}"):
        history.use(str(output), name)
    assert current(output)["run"] == f"runs/{WHAT_IF}"


@pytest.mark.parametrize("damage", ["manifest", "part", "gone"])
def test_a_run_that_is_not_whole_is_not_made_current(output, damage):
    part = next((output / "runs" / OLD / "scored").iterdir())
    if damage == "manifest":
        (output / "runs" / OLD / "manifest.json").write_text("{}")
    elif damage == "part":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        part.unlink()
    with pytest.raises(BadRequest, match=OLD):
        history.use(str(output), OLD)
    assert current(output)["run"] == f"runs/{WHAT_IF}"


@pytest.mark.ray  # slow
def test_use_waits_for_nobody(output):
    from pipeline.storage.lock import hold

    with hold(str(output), "tss run"), pytest.raises(BadRequest, match="is in use by `tss run`"):
        history.use(str(output), OLD)
    assert current(output)["run"] == f"runs/{WHAT_IF}"


def test_keep_runs_leaves_the_run_that_was_made_current(output):
    history.use(str(output), OLD)
    folder = str(output / "runs")
    former = open_run.current_run(str(output))
    assert publish.remove_old_runs(str(output), f"{folder}/{WHAT_IF}", former, 1) == [NEW]
    assert {path.name for path in (output / "runs").iterdir()} == {OLD, WHAT_IF}


def test_a_refresh_compares_with_the_last_run_of_its_settings(output):
    config = read_config.validate(open_run.read_manifest(str(output / "runs" / OLD)).config, "test")
    run, what_if = (str(output / "runs" / name) for name in (NEW, WHAT_IF))
    assert history.last_of_settings(str(output), config, what_if) == run
    assert history.last_of_settings(str(output), config, str(output / "runs" / OLD)) == str(output / "runs" / OLD)
    other = config.model_copy(update={"seed": 9, "output": "elsewhere"})
    assert history.last_of_settings(str(output), other, what_if) == what_if
    (output / "runs" / NEW / "manifest.json").write_text("{")
    assert history.last_of_settings(str(output), config, what_if) == str(output / "runs" / OLD)


@pytest.mark.parametrize("verb", ["runs", "use"])
def test_an_output_without_runs_is_refused(tmp_path, capsys, verb):
    assert cli.main([verb, str(tmp_path), *(["x"] if verb == "use" else [])]) == 2
    assert list(tmp_path.iterdir()) == [] and "run" in capsys.readouterr().err


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\x1b[2J", "x" * 121])
def test_a_label_is_a_line_that_can_be_printed(label):
    with pytest.raises(SystemExit):
        cli.main(["select", "out", "--label", label])
