"""`tss export` as a person calls it: on a run whose parts are checked, whole or not at all, errors in words."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from published_runs import PLAIN_CHAT, RUN, TOOL_CHAT, chat_row, publish_rows, scored_row

from pipeline import cli
from pipeline.export import FORMATS

ROWS = [scored_row(f"Say {i}.", "x" * (i % 2), f"{i}.", weight=float(i % 5), source="ab"[i % 2]) for i in range(50)]


@pytest.fixture
def run(tmp_path):
    return publish_rows(tmp_path / "out", ROWS, selected=[7, 3, 40], part_rows=8)


def export(run, *arguments, output=None):
    """What was written, after an export that went well."""
    output = output or run.parents[2] / f"export-{time.monotonic_ns()}"
    assert cli.main(["export", str(run), "--quiet", *map(str, arguments), "--output", str(output)]) == 0
    return output


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def test_the_selection_goes_out_best_first(run):
    out = export(run, "--to", "alpaca")
    assert [row["output"] for row in lines(out / "train.jsonl")] == ["7.", "3.", "40."]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "axolotl.yaml", "dataset_info.json", "train.jsonl", "trl_sft.py",
    ]  # fmt: skip


def test_all_scored_rows_go_out_from_parquet_as_from_json_lines(run):
    as_lines = lines(export(run, "--to", "messages", "--kind", "scored", "--weights") / "train.jsonl")
    table = pq.read_table(
        export(run, "--to", "messages", "--kind", "scored", "--weights", "--as", "parquet") / "train.parquet"
    )
    assert table.to_pylist() == as_lines and len(as_lines) == 50
    assert [row["weight"] for row in as_lines] == [row["weight"] for row in ROWS]


def test_text_of_any_kind_comes_out_as_it_is(tmp_path):
    text = 'a\u2028b\r\n\x00\\"\t\U0001f600 \x85'
    run = publish_rows(tmp_path / "out", [scored_row(text, text, text)])
    expected = [{"instruction": text, "input": text, "output": text}]
    assert lines(export(run, "--to", "alpaca") / "train.jsonl") == expected
    assert pq.read_table(export(run, "--to", "alpaca", "--as", "parquet") / "train.parquet").to_pylist() == expected


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_turns_that_no_struct_holds_come_out_as_they_came(tmp_path, suffix):
    run = publish_rows(tmp_path / "out", [scored_row(), chat_row(PLAIN_CHAT), chat_row(TOOL_CHAT)], part_rows=1)
    out = export(run, "--to", "messages", "--as", suffix)
    if suffix == "jsonl":
        found = [row["messages"] for row in lines(out / "train.jsonl")]
    else:
        column = pq.read_table(out / "train.parquet")["messages"]
        found = [[json.loads(turn) for turn in turns] for turns in column.to_pylist()]
    assert [json.dumps(turns) for turns in found[1:]] == [json.dumps(PLAIN_CHAT), json.dumps(TOOL_CHAT)]


def test_conversations_that_were_selected_whole_go_out_once(tmp_path, capsys):
    chat = [*PLAIN_CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Well."}]
    of_chat = {"messages": chat, "conversation": "c" * 32}
    rows = [
        scored_row("Hi.", "", "Hello.", turn=1, **of_chat),
        scored_row("And?", "user: Hi.\nassistant: Hello.", "Well.", turn=3, **of_chat),
        scored_row(),
    ]
    run = publish_rows(tmp_path, rows, part_rows=1, select={"unit": "conversation"})
    whole = lines(export(run, "--to", "messages", output=tmp_path / "whole") / "train.jsonl")
    assert [row["messages"] for row in whole] == [chat, whole[1]["messages"]] and len(whole[1]["messages"]) == 2
    assert "1 further turns stand in the same conversations" in capsys.readouterr().out
    marked = lines(export(run, "--to", "messages", "--mark-answer", output=tmp_path / "marked") / "train.jsonl")
    assert [len(row["messages"]) for row in marked] == [2, 4, 2]


def test_the_default_place_names_the_run_and_what_was_asked(run, capsys):
    output = run.parents[1]
    assert cli.main(["export", str(output), "--to", "alpaca", "--quiet"]) == 0
    assert cli.main(["export", str(run), "--to", "alpaca", "--kind", "scored", "--as", "parquet", "--quiet"]) == 0
    assert sorted(path.name for path in (output / "exports").iterdir()) == [
        f"{RUN}-alpaca",
        f"{RUN}-alpaca-scored-parquet",
    ]
    shown = capsys.readouterr().out
    assert f"3 rows, selected in run {RUN}, as alpaca in jsonl" in shown and str(output / "exports") in shown
    assert cli.main(["export", str(run), "--to", "alpaca"]) == 2
    assert "not empty" in capsys.readouterr().err


def test_each_source_has_a_file(tmp_path):
    sources = ["a", "../../b", "A", "x" * 300]
    rows = [scored_row(f"{i}", source=sources[i % 4]) for i in range(20)]
    run = publish_rows(tmp_path / "out", rows, part_rows=3)
    for suffix in ("jsonl", "parquet"):
        out = export(run, "--to", "alpaca", "--split-by", "source", "--as", suffix)
        data = [path for path in out.iterdir() if path.suffix == f".{suffix}"]
        rows_of = lines if suffix == "jsonl" else lambda path: pq.read_table(path).to_pylist()
        found = [[row["instruction"] for row in rows_of(path)] for path in data]
        assert sorted(found) == sorted([str(i) for i in range(20) if i % 4 == k] for k in range(4))
        assert {path.parent for path in tmp_path.rglob(f"*.{suffix}") if path.parent.name.startswith("export-")} == {
            out
        }


def test_more_sources_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.export.export_run._FILES_AT_ONCE", 3)
    rows = [scored_row(f"{i}", source=f"s{i % 10}") for i in range(30)]
    out = export(
        publish_rows(tmp_path / "out", rows, part_rows=7), "--to", "alpaca", "--split-by", "source", "--resample", 30
    )
    assert sorted(row["instruction"] for path in out.glob("*.jsonl") for row in lines(path)) == sorted(
        map(str, range(30))
    )


def test_a_draw_has_as_many_rows_and_none_without_weight(run):
    out = export(run, "--to", "alpaca", "--kind", "scored", "--resample", 200)
    counts = Counter(row["output"] for row in lines(out / "train.jsonl"))
    assert sum(counts.values()) == 200
    assert all(abs(counts[row["output"]] - 2 * row["weight"]) < 1 for row in ROWS)  # weights sum to 100
    assert "weight" not in lines(out / "train.jsonl")[0]


def test_a_draw_follows_from_the_seed_and_not_from_the_parts(tmp_path):
    def counts(name, rows, part_rows, *arguments, seed=0):
        run = publish_rows(tmp_path / name, rows, part_rows=part_rows, seed=seed)
        out = export(run, "--to", "alpaca", "--kind", "scored", "--resample", 30, *arguments)
        return Counter(row["output"] for row in lines(out / "train.jsonl"))

    first = counts("a", ROWS, 8)
    assert first == counts("b", ROWS[::-1], 50)
    assert first != counts("c", ROWS, 8, seed=1) == counts("d", ROWS, 8, "--seed", 1)


def test_rows_without_a_weight_are_left_out_and_counted(tmp_path, capsys):
    rows = [scored_row("a"), scored_row("b", weight=None), scored_row("c", weight=0.0)]
    run = publish_rows(tmp_path / "out", rows)
    out = export(run, "--to", "alpaca", "--kind", "scored", "--weights")
    assert [row["instruction"] for row in lines(out / "train.jsonl")] == ["a", "c"]
    assert "1 rows have no weight" in capsys.readouterr().out
    assert "1 rows have no weight" in (out / "README.md").read_text()
    assert len(lines(export(run, "--to", "alpaca", "--kind", "scored") / "train.jsonl")) == 3


def test_prompts_are_those_that_were_scored(tmp_path):
    out = export(
        publish_rows(tmp_path / "out", [scored_row("Sort.", "b a", "a b")], template="plain"), "--to", "completion"
    )
    assert lines(out / "train.jsonl") == [{"prompt": "Sort.\n\nb a\n\n", "completion": "a b"}]


BAD = [
    (["--to", "alpaca", "--weights", "--resample", "5"], "accepted: one of them"),
    (["--to", "alpaca", "--seed", "5"], "--resample N"),
    (["--to", "alpaca", "--mark-answer"], "messages or sharegpt"),
    (["--to", "alpaca", "--output", "s3://bucket/x"], "accepted: a folder"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=range(len(BAD)))
def test_bad_requests(run, capsys, arguments, words):
    assert cli.main(["export", str(run), *arguments]) == 2
    assert words in capsys.readouterr().err and not (run.parents[1] / "exports").exists()


def test_runs_that_do_not_have_what_is_asked(tmp_path, capsys):
    def refused(name, rows, *arguments, **more):
        assert cli.main(["export", str(publish_rows(tmp_path / name, rows, **more)), "--quiet", *arguments]) == 2
        assert not (tmp_path / name / "exports").exists() or not any((tmp_path / name / "exports").iterdir())
        return capsys.readouterr().err

    assert "has no selected rows" in refused("a", ROWS, "--to", "alpaca", selected=[])
    assert "chat template" in refused("b", ROWS, "--to", "completion", template="chat")
    without = [scored_row(weight=None)]
    assert "no row has a weight" in refused("c", without, "--to", "alpaca", "--weights")
    assert "no row has a weight" in refused("d", without, "--to", "alpaca", "--resample", "3")


def test_a_copy_of_a_run_needs_a_place(run, tmp_path, capsys):
    copy = run.rename(tmp_path / "copy")
    assert cli.main(["export", str(copy), "--to", "alpaca"]) == 2
    assert "--output DIR" in capsys.readouterr().err
    assert len(lines(export(copy, "--to", "alpaca", output=tmp_path / "x") / "train.jsonl")) == 3


def test_a_damaged_part_is_named_and_nothing_is_written(run, tmp_path, capsys):
    part = run / "selected" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9] + b"x" * 9)
    for suffix in ("jsonl", "parquet"):
        output = tmp_path / "x"
        assert (
            cli.main(["export", str(run), "--to", "messages", "--as", suffix, "--quiet", "--output", str(output)]) == 1
        )
        shown = capsys.readouterr().err
        assert f"stage export: {part}: is damaged" in shown and "nothing was written" in shown
        assert not output.exists() and not list(tmp_path.glob(".x*"))


def test_a_row_whose_conversation_does_not_answer_is_named(tmp_path, capsys):
    row = scored_row("Hi.", "", "Never said.", messages=PLAIN_CHAT)
    run = publish_rows(tmp_path / "out", [row])
    assert cli.main(["export", str(run), "--to", "prompt-completion", "--quiet"]) == 1
    assert f"row {row['id']} of source 'a'" in capsys.readouterr().err
    assert list((tmp_path / "out" / "exports").iterdir()) == []


def test_a_row_that_the_manifest_does_not_account_for_is_missed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.export.export_run._file_names", lambda job: {"a": "train.jsonl"})
    assert cli.main(["export", str(run), "--to", "alpaca", "--quiet", "--kind", "scored"]) == 1
    assert "25 rows written, 50 expected" in capsys.readouterr().err


@pytest.mark.ray  # starts a process
def test_a_killed_export_leaves_a_draft_and_no_export(tmp_path):
    rows = [scored_row(f"Say {i}.", "x" * 2000, salt=i) for i in range(20_000)]
    run = publish_rows(tmp_path / "out", rows, part_rows=200)
    command = [sys.executable, "-m", "pipeline", "export", str(run), "--to", "messages", "--quiet", "--as", "parquet"]
    exports = tmp_path / "out" / "exports"

    def killed(how):
        process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[3], stderr=subprocess.PIPE, text=True)
        while not list(exports.glob(".*/train.parquet")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(how)
        return process.wait(60), process.stderr.read()

    status, shown = killed(signal.SIGTERM)
    assert status == 130 and "interrupted; nothing was written" in shown and not list(exports.iterdir())
    killed(signal.SIGKILL)
    assert [path.name.startswith(f".{RUN}-messages-parquet.draft-") for path in exports.iterdir()] == [True]
    assert subprocess.run(command, cwd=Path(__file__).resolve().parents[3], check=False).returncode == 0
    assert pq.read_metadata(exports / f"{RUN}-messages-parquet" / "train.parquet").num_rows == 20_000


def test_formats_that_are_offered_are_all_written(run):
    for to in FORMATS:
        assert len(lines(export(run, "--to", to) / "train.jsonl")) == 3
