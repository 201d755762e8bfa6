"""`tss push` against a stand-in of the hub: one commit, a revision for the run, private, and errors in words."""

from pathlib import Path

import pytest
from datasets import load_dataset
from hub_server import hub_server
from published_runs import RUN, publish_rows, scored_row

from pipeline import cli
from pipeline.runs.open_run import read_manifest

ROWS = [scored_row(f"{i}") for i in range(20)]


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture
def run(tmp_path):
    return publish_rows(tmp_path / "out", ROWS, selected=[3, 1], part_rows=8)


def push(run, *arguments):
    return cli.main(["push", str(run), "ann/rows", "--quiet", *arguments])


def test_a_run_is_one_commit_and_a_revision_of_a_private_data_set(hub, run, tmp_path, capsys, monkeypatch):
    assert push(run.parents[1]) == 0
    repository = hub.repositories["ann/rows"]
    assert repository.private and len(repository.commits) == 2 and repository.tags == {RUN: 1}
    written = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert repository.files == written
    shown = capsys.readouterr().out
    assert f'load_dataset("ann/rows", "selected", revision="{RUN}", split="train")' in shown and "(private)" in shown
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for path, data in repository.files.items():
        (tmp_path / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / path).write_bytes(data)
    assert load_dataset(str(tmp_path / "clone"), "selected", split="train")["instruction"][:] == ["3", "1"]


@pytest.mark.ray  # slow
def test_a_later_run_takes_the_place_of_the_one_before(hub, run, tmp_path):
    assert push(run) == 0
    hub.repositories["ann/rows"].files["NOTES.md"] = b"of the owner"
    hub.repositories["ann/rows"].files["near_duplicates/part-00000.parquet"] = b"of a run that looked for them"
    hub.repositories["ann/rows"].tags = {"earlier": 1}
    later = publish_rows(tmp_path / "later", ROWS[:5])
    assert push(later) == 0
    repository = hub.repositories["ann/rows"]
    parts = [part.path for kind in read_manifest(str(later)).files.values() for part in kind]
    assert set(repository.files) == {"README.md", "manifest.json", "NOTES.md", *parts}
    assert repository.tags == {"earlier": 1, RUN: 2} and "scored/part-00001.parquet" in repository.commits[1]


def test_a_card_that_was_filled_in_is_sent(hub, run):
    card = (run / "README.md").read_text().replace("# license: apache-2.0", "license: mit")
    (run / "README.md").write_text(card)
    assert push(run) == 0 and hub.repositories["ann/rows"].files["README.md"] == card.encode()


def test_a_run_of_an_early_release_has_a_card_on_the_hub(hub, run):
    (run / "README.md").unlink()
    assert push(run, "--public") == 0
    repository = hub.repositories["ann/rows"]
    assert b"config_name: selected" in repository.files["README.md"] and not repository.private


def test_rows_are_not_shown_to_more_people_than_was_asked(hub, run, capsys):
    assert push(run, "--public") == 0
    hub.repositories["ann/rows"].tags.clear()
    assert push(run) == 2 and "everybody would see" in capsys.readouterr().err
    hub.repositories["ann/rows"].private = True
    assert push(run, "--public") == 2 and "does not publish it" in capsys.readouterr().err
    assert len(hub.repositories["ann/rows"].commits) == 2


def test_a_run_that_is_there_is_not_sent_again(hub, run, capsys):
    assert push(run) == 0
    assert push(run) == 2 and f"run {RUN} is there already" in capsys.readouterr().err


@pytest.mark.ray  # slow
def test_a_push_that_broke_off_before_its_revision_goes_on(hub, run, capsys):
    hub.fails["POST", "/tag/"] = 500
    assert push(run) == 1
    shown = capsys.readouterr().err
    assert "the hub answered 500" in shown and "not there as a revision yet" in shown
    hub.fails.clear()
    assert push(run) == 0
    assert len(hub.repositories["ann/rows"].commits) == 2 and hub.repositories["ann/rows"].tags == {RUN: 1}


@pytest.mark.parametrize(
    ("fails", "status", "words"),
    [
        ({("POST", "/api/repos/create"): 403}, 2, "may not do this"),
        ({("POST", "/preupload/"): 404}, 2, "no such owner or data set"),
        ({("POST", "/commit/"): 409}, 2, "somebody else writes"),
        ({("GET", "/api/whoami"): 503}, 1, "the hub answered 503"),
        ({("PUT", "/lfs/"): 403}, 2, "may not do this"),
    ],
)
def test_what_the_hub_answers_is_said(hub, run, capsys, fails, status, words):
    hub.fails.update(fails)
    assert push(run) == status
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown and hub.token not in shown
    assert all(len(repository.commits) == 1 for repository in hub.repositories.values())


def test_a_token_that_is_not_accepted_is_said_and_shown_nowhere(hub, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    assert push(run, "--debug") == 2
    shown = capsys.readouterr().err
    assert "does not accept the token in HF_TOKEN" in shown and "hf_wrong_secret" not in shown
    assert not hub.repositories


def test_no_token_ends_up_in_a_log_or_in_what_is_sent(hub, run, capsys, monkeypatch):
    def broken(*given, **more):
        raise ConnectionError(f"cut off after Bearer {hub.token}")

    monkeypatch.setattr("huggingface_hub._commit_api.http_backoff", broken)
    assert push(run) == 1
    shown = capsys.readouterr().err
    log = Path(shown.rstrip().rpartition("the traceback is in ")[2]).read_text()
    assert hub.token not in shown and hub.token not in log and "<HF_TOKEN>" in log
    assert not any(hub.token.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_a_hub_that_cannot_be_reached_is_said(hub, run, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert push(run) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_offline_is_said(hub, run, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert push(run) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_damaged_part_is_not_sent(hub, run, capsys):
    part = run / "scored" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    assert push(run) == 1
    assert f"{part}: is damaged" in capsys.readouterr().err and hub.requests == []


@pytest.mark.parametrize("name", ["rows", "/rows", "ann/", "a/b/c", "../x", "ann/ro ws", "ann/..", ""])
def test_what_is_no_name_is_refused_before_the_hub_is_asked(hub, run, capsys, name):
    assert cli.main(["push", str(run), name]) == 2
    assert "accepted: owner/name" in capsys.readouterr().err and hub.requests == []


def test_without_a_token_nothing_is_asked(hub, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(run) == 2
    assert "HF_TOKEN is not set" in capsys.readouterr().err and hub.requests == []
