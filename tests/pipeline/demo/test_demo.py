"""The demo's corpus is true by construction, and the demo is the main job on it."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import truth as truth_benchmark
from conftest import write_jsonl

from pipeline import cli, demo, flow, read_config
from pipeline.demo import MODEL, corpus, truth
from pipeline.demo.tasks import BY_DOMAIN, GENERIC, TASKS
from pipeline.engine.progress import Reporter


def test_enough_tasks():
    assert (
        len({text for task in TASKS for text in task.instructions}) >= 40 and len({task.family for task in TASKS}) >= 8
    )
    assert sum(len(task.instructions) > 1 for task in TASKS) >= 10
    assert len({text for task in TASKS for text in task.instructions}) == sum(len(task.instructions) for task in TASKS)


def test_rows_are_seeded_and_distinct():
    rows = list(corpus.rows(3000, seed=1))
    assert rows == list(corpus.rows(3000, seed=1)) != list(corpus.rows(3000, seed=2))
    assert len({(row["instruction"], row["input"], row["output"]) for row in rows}) == 3000
    shares = Counter(row["kind"] for row in rows)
    assert all(abs(shares[kind] / 3000 - share) < 0.03 for kind, share in corpus.KIND_SHARES.items())


def test_every_kind_is_what_it_says():
    by_name = {task.name: task for task in TASKS}
    for row in corpus.rows(3000):
        task, items = by_name[row["task"]], row["input"].split()
        others = [other.answer(items) for other in BY_DOMAIN[task.domain] if other is not task]
        right = row["output"] == task.answer(items)
        assert corpus.held_out(row["input"]) and row["instruction"] in task.instructions
        match row["kind"]:
            case "specific":
                assert right and row["output"] not in others
            case "ambiguous":
                assert right and others.count(row["output"]) >= 2
            case "mismatched":
                assert not right and row["output"] in others
            case "generic":
                assert row["output"] in GENERIC
            case "noisy":
                assert row["output"] not in {task.answer(items), *others}


def test_the_bundled_scorer_is_small_safe_and_has_learned_its_tasks():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8 << 20
    assert {path.suffix for path in MODEL.iterdir()} <= {".json", ".safetensors"}
    assert json.loads((MODEL / "accuracy.json").read_text())["exact_match"] >= 0.9


def test_shares_of_kinds_can_be_chosen():
    shares = Counter(row["kind"] for row in corpus.rows(500, 1, {"specific": 0.2, "noisy": 0.8}))
    assert set(shares) == {"specific", "noisy"} and shares["noisy"] > 350


def test_nothing_in_the_pipeline_reads_the_kind(ray_session, tmp_path):
    rows = list(corpus.rows(60, seed=2))
    blind = [{**row, "kind": "specific"} for row in rows]
    wanted = [ranked(tmp_path / name, some) for name, some in (("seen", rows), ("blind", blind))]
    assert wanted[0] == wanted[1] and len(wanted[0]) > 3


def ranked(folder, rows):
    folder.mkdir()
    settings = demo.settings(write_jsonl(folder / "rows.jsonl", rows), folder / "out")
    run = Path(flow.run(read_config.validate(settings, "test"), Reporter(quiet=True)).run)
    return pq.read_table(run / "selected", columns=["id", "tss_pp"]).to_pylist()


def test_the_demo_prefers_specific_rows(ray_session, tmp_path, capsys):
    overrides = ["--set", "seed=3", "--set", "select.temperature=0"]  # what the truth is judged by
    assert cli.main(["demo", "--rows", "250", "--output", str(tmp_path / "out"), "--quiet", *overrides]) == 0
    shown = capsys.readouterr().out
    assert "250 read" in shown and "best " in shown and "worst " in shown and str(tmp_path / "out") in shown
    run = tmp_path / "out" / json.loads((tmp_path / "out" / "latest.json").read_text())["run"]
    selected = pq.read_table(run / "selected")
    kinds = Counter(json.loads(extra)["kind"] for extra in selected["extra"].to_pylist())
    assert kinds["specific"] / kinds.total() > 0.7
    scored = pq.read_table(run / "scored", columns=["instruction", "input", "output"]).to_pylist()
    written = corpus.rows(250, seed=3)
    assert {tuple(row.values()) for row in scored} == {
        (row["instruction"], row["input"], row["output"]) for row in written
    }

    # The benchmark of settings starts from the same scores.
    known = truth_benchmark.both_scores(truth_benchmark.read_likelihoods(run), truth_benchmark.Setting(), seed=0)
    written = pq.read_table(run / "scored", columns=["id", "tss", "tss_pp"]).sort_by("id")
    assert [column.tolist() for column in known] == [written["tss"].to_pylist(), written["tss_pp"].to_pylist()]

    rows = truth.read(run)
    by_signal = {name: truth.aurocs(rows, scores, count=0) for name, scores in rows.signals.items()}
    assert by_signal["tss_pp"][truth.ALL].value >= 0.9
    assert all(
        by_signal["tss_pp"][truth.ALL].value > by_signal[name][truth.ALL].value for name in ("ppl", "ifd", "random")
    )
    assert all(f"{estimate.value:.3f}" in shown for signal in by_signal.values() for estimate in signal.values())
    share = truth.shares(rows, rows.signals["tss_pp"], count=0)[0.15]
    assert share.value == kinds["specific"] / kinds.total() and f"{share.value:.1%}" in shown


def test_the_demo_judges_only_what_it_can(ray_session, tmp_path, capsys):
    assert cli.main(["demo", "--set", "input=other.jsonl"]) == 2
    assert "its own corpus" in capsys.readouterr().err
    words = ["demo", "--rows", "60", "--output", str(tmp_path), "--quiet", "--set", "select.mode=bounded"]
    assert cli.main(words) == 0 and "not judged" in capsys.readouterr().out
