"""`tss submit` without a cluster: connections that break, refusals, and what must not leave this machine."""

import types

import pytest
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from pipeline import cli, read_config, submit
from pipeline.arguments import make_parser
from pipeline.errors import BadRequest


class Clock:
    """A clock that only moves when somebody waits."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Dashboard:
    """A job's log in the pieces that each connection gives: text, seconds of silence, or an exception."""

    def __init__(self, clock, *connections):
        self.clock, self.connections = clock, list(connections)

    async def tail_job_logs(self, name):
        for piece in self.connections.pop(0) if len(self.connections) > 1 else self.connections[0]:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, str):
                yield piece
            else:
                self.clock.sleep(piece)

    def get_job_info(self, name):
        return types.SimpleNamespace(status=JobStatus.SUCCEEDED)


@pytest.fixture
def follow(monkeypatch):
    def with_(*connections):
        clock = Clock()
        monkeypatch.setattr(submit, "time", clock)
        jobs = submit.Jobs.__new__(submit.Jobs)
        jobs._client, jobs.address = Dashboard(clock, *connections), "http://head:8265"
        return jobs.follow("mine")

    return with_


def test_a_connection_that_breaks_after_a_long_silence_is_made_again(follow, capsys):
    assert follow(["one\n", 600, ConnectionError("gone")], ["one\ntwo\n"]).status == "SUCCEEDED"
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_connection_to_a_silent_log_ends_an_outage_too(follow):
    gone = ConnectionError("gone")
    assert follow([gone], [600, gone], [600, gone], ["one\n"]).status == "SUCCEEDED"


def test_a_dashboard_that_stays_away_is_given_up_with_how_to_follow(follow):
    with pytest.raises(
        submit.OutOfReach, match=r"not told of job mine for 60 s \(gone\); unless.*it may go on.*ray job logs"
    ):
        follow([ConnectionError("gone")])


def test_a_dashboard_that_takes_connections_and_never_answers_is_given_up(follow):
    with pytest.raises(submit.OutOfReach, match="not told of job mine"):
        follow([300, TimeoutError("no answer")])


def test_an_interrupt_while_the_job_is_sent_says_how_to_look_for_it(tmp_path, capsys, monkeypatch):
    def sent(**more):
        raise KeyboardInterrupt

    client = types.SimpleNamespace(get_address=lambda: "http://head:8265", submit_job=sent)
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: client)
    assert cli.main(["submit", "--id", "mine", "select", str(tmp_path)]) == 130
    assert "job mine may have begun. Follow it: ray job logs" in capsys.readouterr().err


def test_refusals_say_why_and_what_to_do():
    refused = submit._refused("no", RuntimeError("500: Traceback:\n  File\nValueError: job mine exists already\n."))
    assert str(refused) == "no: ValueError: job mine exists already"
    assert "RAY_AUTH_TOKEN" in str(submit._refused("no", AuthenticationError("Unauthenticated")))


@pytest.mark.parametrize(
    ("error", "words"),
    [(AuthenticationError("Unauthenticated"), "RAY_AUTH_TOKEN"), (OSError("502 Bad Gateway"), "502 Bad Gateway")],
)
def test_a_dashboard_that_does_not_let_us_in_is_told_in_words(monkeypatch, error, words):
    def client(address):
        raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", client)
    with pytest.raises(BadRequest, match=words):
        submit.Jobs("http://head:8265")


def test_an_address_with_credentials_is_not_shown(capsys):
    assert cli.main(["submit", "--address", "http://key:secret@head:8265", "select", "/shared/run"]) == 2
    shown = capsys.readouterr().err
    assert "--address: a URL with credentials" in shown and "secret" not in shown


def test_a_value_that_is_no_yaml_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(submit, "Jobs", None)
    assert cli.main(["submit", "select", "/shared/run", "--set", "output=[x"]) == 2
    assert "the value is not YAML" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["select", "s3://key:secret@bucket/run"],
        ["select", "/shared/run", "--set", "output=s3://key:secret@bucket/out"],
        ["select", "/shared/run", "--set", "output=out"],
        ["demo", "--output", "/shared/demo", "--set", "output=demo"],
        ["run", "config.yaml", "--set", "output=s3://key:secret@bucket/out"],
        ["run", "config.yaml", "--set", "input.0.path=s3://key:secret@bucket/rows.jsonl"],
        ["run", "config.yaml", "--set", "input.0.path=iceberg://rows"],
        ["run", "config.yaml", "--set", "input.0.path=iceberg://s3://key:secret@bucket/rows"],
        ["run", "config.yaml", "--set", "alternatives.pool=s3://key:secret@bucket/pool.txt"],
        ["run", "config.yaml", "--set", "embedder.model=https://key:secret@host/model"],
        ["run", "config.yaml", "--set", "output=s3://bucket/out?access_key=secret"],
        ["run", "config.yaml", "--set", "output=s3://key:secret/and@bucket/out"],
        ["select", "/shared/run", "--set", "select.x=[s3://b/x, s3://key:secret@bucket/x]"],
        ["demo", "--output", "/shared/demo", "--set", "alternatives.pool=s3://key:secret@bucket/pool.txt"],
    ],
)
def test_credentials_and_relative_outputs_go_nowhere(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("input: [{path: /shared/rows.jsonl}]\noutput: /shared/out\n")
    monkeypatch.setattr(submit, "Jobs", None)  # whoever got so far would fail
    assert cli.main(["submit", *words]) == 2
    shown = capsys.readouterr().err
    assert "secret" not in shown and "accepted:" in shown


def test_excluded_texts_travel_with_the_job(tmp_path):
    (tmp_path / "bench.txt").write_text("a text of five words")
    settings = {
        "input": str(tmp_path / "rows.jsonl"),
        "output": str(tmp_path / "out"),
        "exclude": [str(tmp_path / "bench.txt"), {"path": str(tmp_path / "bench.txt"), "ngram": 4}],
        "scorer": {"model": "owner/name"},
        "embedder": {"model": "lexical"},
    }
    folder = tmp_path / "job"
    folder.mkdir()
    submit._stage_config(folder, read_config.validate(settings, "test"))
    staged = yaml.safe_load((folder / "config.yaml").read_text())["exclude"]
    assert [(asked["path"], asked["ngram"]) for asked in staged] == [("exclude-0.txt", 13), ("exclude-1.txt", 4)]
    assert (folder / "exclude-1.txt").read_text() == "a text of five words"
    (tmp_path / "bench.txt").write_text("")
    with pytest.raises(BadRequest, match=r"exclude\.0\.path: .*holds no text"):
        submit._stage_config(folder, read_config.validate(settings, "test"))


def test_a_job_is_given_what_was_asked_of_its_run(tmp_path):
    flags = ["--label", "two words", "--allow-empty", "--dry-run"]
    parsed = make_parser().parse_args(["select", "s3://bucket/out", "--budget", "2k", *flags])
    words = submit.stage(tmp_path, parsed, None)
    again = make_parser().parse_args(words)
    assert (again.label, again.allow_empty, again.dry_run) == ("two words", True, True)
    assert [str(text) for text in again.overrides] == ['select.budget="2k"'] and again.run == "s3://bucket/out"


def test_a_refresh_as_a_job_says_whether_there_is_news(tmp_path):
    config = read_config.validate(
        {"input": "s3://bucket/rows.jsonl", "output": "s3://bucket/out", "scorer": {"model": "org/name"}}, "test"
    )
    words = submit.stage(tmp_path, make_parser().parse_args(["refresh", "c.yaml", "--exit-code"]), config)
    assert make_parser().parse_args(words).exit_code and words[:2] == ["refresh", "config.yaml"]
