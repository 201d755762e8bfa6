"""Faults while rows are read and scored: a row that cannot be is found and rejected; what is no row's fault ends the run."""

import json
import os

import pytest
from conftest import write_jsonl
from small_runs import corpus, refresh, run, table

from operators.model_files import ModelProblem
from pipeline.errors import RunFailed
from pipeline.reading import admit
from pipeline.scoring import score_block

ROWS = corpus(12, seed=4)
POISON = {"instruction": "Copy the list.", "input": "a b", "output": "POISON"}


@pytest.fixture(scope="module")
def clean(ray_session, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    return run(
        folder / "out", [write_jsonl(folder / "rows.jsonl", ROWS)], model_folder, alternatives__pool=pool(folder)
    )


def pool(folder):
    """Alternatives that do not depend on which rows there are."""
    (folder / "pool.txt").write_text("Sing it loud.\nDraw a house.\n")
    return str(folder / "pool.txt")


def faulty(monkeypatch, **overrides):
    """Scorers with some of their methods and settings replaced."""

    class Faulty:
        def __init__(self, **settings):
            from pipeline.scoring.score_block import ScoreBlock  # the worker's own

            self._actor = type("Faulty", (ScoreBlock,), overrides)(**settings)

        def __call__(self, batch):
            return self._actor(batch)

    monkeypatch.setattr(score_block, "ScoreBlock", Faulty)


def failing(fail):
    """`_score_rows` that asks `fail` first, with the outputs of its rows."""

    def scored(self, rows):
        fail(rows.encoded["output"].to_pylist())
        return super(type(self), self)._score_rows(rows)

    return scored


def rest_equals(done, clean):
    got, expected = ({row["id"]: row["tss_pp"] for row in table(one, "scored")} for one in (done, clean))
    assert got and got == pytest.approx({key: expected[key] for key in got}, abs=1e-4)
    counts = json.loads((done / "manifest.json").read_text())["counts"]
    assert counts["scored"] == len(got)
    assert counts["read"] == sum(counts["rejected"].values()) + counts["duplicates"] + counts["scored"]


def test_a_row_that_raises_is_rejected_alone(ray_session, clean, model_folder, tmp_path, monkeypatch):
    def fail(outputs):
        if "POISON" in outputs:
            raise RuntimeError("no such kernel")

    faulty(monkeypatch, _score_rows=failing(fail))
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:5], POISON, *ROWS[5:]])
    done = run(tmp_path / "out", [path], model_folder, alternatives__pool=pool(tmp_path))
    rest_equals(done, clean)
    (rejected,) = table(done, "rejected")
    assert rejected["reason"] == "scorer_failed" and rejected["line"] == 6 and rejected["file"] == str(path)
    assert "RuntimeError: no such kernel" in rejected["detail"] and json.loads(rejected["raw"])["output"] == "POISON"


def test_a_row_that_ends_its_process_every_time_is_rejected_alone(
    scorer_actors, clean, model_folder, tmp_path, monkeypatch
):
    def fail(outputs):
        if "POISON" in outputs:
            os._exit(1)

    faulty(monkeypatch, _score_rows=failing(fail), whole_tries=1, row_tries=1)
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:3], POISON])
    done = run(tmp_path / "out", [path], model_folder, alternatives__pool=pool(tmp_path))
    rest_equals(done, clean)
    (rejected,) = table(done, "rejected")
    assert rejected["reason"] == "scorer_died" and rejected["line"] == 4 and "ended 1 times" in rejected["detail"]


def deadly_reader():
    """`admit_chunks` in which the poison ends the process."""

    def admit_chunks(batch, **settings):
        from pipeline.reading import admit, collect  # the worker's own

        def deadly(record, columns):
            if record["output"] == "POISON":
                os._exit(1)
            return normalise(record, columns)

        normalise = collect.normalise
        # Marked from the start and row by row: the end of one process shows it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collect, "normalise", deadly)
            for name, value in {"WHOLE_TRIES": 0, "ROW_TRIES": 1, "ROWS_AT_ONCE": 1}.items():
                patch.setattr(admit, name, value)
            return admit.admit_chunks(batch, **settings)

    return admit_chunks


def test_a_row_that_ends_its_reader_every_time_is_rejected_alone(
    ray_session, clean, model_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(admit, "admit_chunks", deadly_reader())
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], POISON])
    budget = {"select__budget": {"token_fraction": 1.0}}  # of one row
    done = run(tmp_path / "out", [path], model_folder, alternatives__pool=pool(tmp_path), **budget)
    rest_equals(done, clean)
    (rejected,) = table(done, "rejected")
    assert rejected["reason"] == "reader_died" and rejected["line"] == 2
    assert json.loads(rejected["raw"]) == POISON


def test_a_fault_that_passes_costs_nothing(ray_session, clean, model_folder, tmp_path, monkeypatch):
    mark = str(tmp_path / "failed")

    def fail(outputs):
        if not os.path.exists(mark):  # noqa: PTH110 - sent to a worker as it is
            os.mkdir(mark)  # noqa: PTH102
            raise RuntimeError("once")

    faulty(monkeypatch, _score_rows=failing(fail))
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    done = run(tmp_path / "out", [path], model_folder, alternatives__pool=pool(tmp_path))
    rest_equals(done, clean)
    assert not table(done, "rejected")


def test_a_scorer_that_is_broken_is_no_fault_of_rows(ray_session, model_folder, tmp_path, monkeypatch):
    def scored(self, block):
        self._scorer.works = lambda: False
        raise RuntimeError("device-side assert")

    faulty(monkeypatch, _score_rows=scored)
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(
        RunFailed, match=r"stage score: .*the scorer fails on everything since RuntimeError: device-side"
    ):
        run(tmp_path / "out", [path], model_folder)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_model_that_is_no_scorer_ends_the_run_by_name(ray_session, model_folder, tmp_path, monkeypatch):
    loads = str(tmp_path / "loads")

    def load(self):
        with open(loads, "a") as file:  # noqa: PTH123 - sent to a worker as it is
            file.write("1")
        raise ModelProblem("scorer.model: 'm': the model is not causal")

    faulty(monkeypatch, _load=load)
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(RunFailed, match=r"^stage score: (BrokenScorer: )?scorer\.model: 'm': the model is not causal$"):
        run(tmp_path / "out", [path], model_folder)
    assert set((tmp_path / "loads").read_text()) == {"1"}
    assert not (tmp_path / "out" / "runs").exists()


def test_a_model_that_ends_its_process_while_it_loads_is_given_up(scorer_actors, model_folder, tmp_path, monkeypatch):
    faulty(monkeypatch, _load=lambda self: os._exit(1))
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(RunFailed, match="loading the scorer ended its process 3 times; is there too little memory"):
        run(tmp_path / "out", [path], model_folder)


def test_too_many_rows_rejected_by_the_scorer_end_the_run(ray_session, model_folder, tmp_path, monkeypatch):
    def fail(outputs):
        if any("yes" in output for output in outputs):
            raise RuntimeError("no such kernel")

    faulty(monkeypatch, _score_rows=failing(fail))
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(
        RunFailed, match=r"stage score: \d of 12 rows rejected \(scorer_failed \d\), more than max_rejected"
    ):
        run(tmp_path / "out", [path], model_folder, max_rejected_fraction=0.05)
    assert not (tmp_path / "out" / "runs").exists()


def test_too_many_rejected_rows_end_the_run(ray_session, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, "{not json", {"instruction": "I", "output": ""}])
    with pytest.raises(
        RunFailed,
        match=r"2 of 14 rows rejected \(empty_output 1, malformed_json 1\), more than max_rejected_fraction: 0.1 "
        r".*first: .*rows.jsonl:13: malformed_json",
    ):
        run(tmp_path / "out", [path], model_folder, max_rejected_fraction=0.1)
    (kept,) = (tmp_path / "out" / "failures").iterdir()
    assert [row["line"] for row in table(kept.parent, kept.name)] == [13, 14]
    run(tmp_path / "out", [path], model_folder, max_rejected_fraction=0.15)
    # Nothing else has changed since, and the stricter limit holds.
    with pytest.raises(RunFailed, match=r"2 of 14 rows rejected"):
        refresh(tmp_path / "out", [path], model_folder, max_rejected_fraction=0.1)
