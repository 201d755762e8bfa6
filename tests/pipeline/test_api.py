"""From Python: the names of the package, a run as data, operators in a pipeline of one's own."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from published_runs import publish_rows, scored_row
from scored_runs import publish_scored

import pipeline
from operators.normalise import normalise
from operators.schema import LIKELIHOODS
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline import compare, load_config, open_run, run
from pipeline.errors import BadRequest, DamagedInput
from pipeline.runs.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [
    {"instruction": "Sort the words.", "input": "b a", "output": "a b"},
    {"instruction": "Count the words.", "input": "", "output": "2"},
]


def test_importing_the_package_imports_nothing_else():
    program = (
        "import sys; before = set(sys.modules); import pipeline\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('_')))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name.partition(".")[0] for name in eval(shown)} <= {"pipeline", *sys.stdlib_module_names}


def test_names_are_those_that_are_documented():
    assert set(pipeline.__all__) <= set(dir(pipeline))
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pipeline.nothing
    documented = (ROOT / "pipeline" / "README.md").read_text()
    section = documented[documented.index("## From Python") :]
    assert not [name for name in pipeline.__all__ if f"`{name}" not in section]


def test_a_configuration_is_a_file_or_a_mapping(tmp_path):
    (tmp_path / "c.yaml").write_text("{input: a.jsonl, output: out, seed: 3}")
    from_file = load_config(tmp_path / "c.yaml", "select.budget.tokens=20")
    assert from_file == load_config({"input": "a.jsonl", "output": "out", "seed": 3}, "select.budget.tokens=20")
    assert from_file.select.budget == {"tokens": 20}
    with pytest.raises(BadRequest, match="did you mean 'seed'"):
        load_config({"input": "a.jsonl", "output": "out", "sed": 3})


@pytest.mark.parametrize("command", ["run", "refresh"])
def test_a_run_that_was_made_is_opened(tmp_path, monkeypatch, command):
    made = publish_rows(tmp_path, [scored_row()])
    asked = {}

    def flow(config, reporter, *, fresh):
        asked.update(config=config, fresh=fresh)
        return Summary(str(made), "done")

    monkeypatch.setattr(f"pipeline.flow.{command}", flow)
    opened = getattr(pipeline, command)({"input": "a.jsonl", "output": "out"}, fresh=True, quiet=True)
    assert opened.path == str(made) and opened.manifest.counts.scored == 1
    assert asked["fresh"] and asked["config"].output == "out"


def test_a_selection_takes_the_settings_of_its_run(tmp_path, monkeypatch):
    made = publish_rows(tmp_path, [scored_row()], select={"budget": {"tokens": 7}})
    asked = []
    monkeypatch.setattr(
        "pipeline.flow.select", lambda config, parent, reporter: asked.append(config) or Summary(parent, "done")
    )
    pipeline.select(tmp_path, "select.budget.tokens=9", quiet=True)
    assert asked[0].select.budget == {"tokens": 9} and asked[0].output == str(tmp_path)
    with pytest.raises(BadRequest, match="this would need the model"):
        pipeline.select(made, "alternatives.k=3")


def test_a_folder_that_hides_a_package_is_refused_as_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(BadRequest, match="would be imported instead of the module 'datasets'"):
        run({"input": "a.jsonl", "output": "out"})


def test_a_summary_is_escaped_in_a_notebook(tmp_path):
    shown = Summary("run", "<script>alert(1)</script> \x1b[31m & more")._repr_html_()
    assert shown == "<pre>&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[31m &amp; more</pre>"
    opened = open_run(publish_rows(tmp_path, [scored_row()]))
    assert opened._repr_html_() == opened.summary._repr_html_() and "1 read" in opened.summary.text
    assert "manifest" not in repr(opened)


def test_rows_as_a_dataset_of_hugging_face_in_their_order(tmp_path):
    rows = [scored_row(f"Do {number}.") for number in range(7)]
    opened = open_run(publish_rows(tmp_path, rows, selected=[4, 0, 6], part_rows=2))
    selected = opened.to_datasets()
    assert selected["instruction"][:] == ["Do 4.", "Do 0.", "Do 6."] and selected["selection_rank"][:] == [0, 1, 2]
    assert type(selected).__module__ == "datasets.arrow_dataset"
    assert opened.to_datasets("scored").num_rows == 7 and opened.to_datasets("rejected").num_rows == 0
    with pytest.raises(BadRequest, match="accepted: scored, selected, rejected"):
        opened.to_datasets("near_duplicates")


def test_a_changed_part_is_not_read(tmp_path):
    made = publish_rows(tmp_path, [scored_row()])
    (part,) = (made / "selected").iterdir()
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedInput, match=part.name):
        open_run(made).to_datasets()


def test_a_row_and_another_run_from_an_open_one(tmp_path, model_folder):
    made = publish_scored(tmp_path, model_folder, RECORDS, selected=[1])
    opened = open_run(made)
    row = opened.explain("a.jsonl:1")
    assert row.tokens.gap <= 1e-4 and opened.explain(row.id, model=False).tokens is None
    assert compare(opened, tmp_path).selections.jaccard == 1


def test_rows_are_a_dataset_of_ray_data(ray_session, object_store, tmp_path):
    import pyarrow.fs as pafs
    import ray.data

    rows = [scored_row(f"Do {number}.", line=number) for number in range(7)]
    opened = open_run(publish_rows(tmp_path, rows, selected=[4, 0], part_rows=1))
    assert isinstance(opened.scored, ray.data.Dataset) and "reason" in opened.rejected.schema().names  # which is empty
    pafs.copy_files(str(tmp_path), "bucket/opened", destination_filesystem=object_store)
    chosen = open_run("s3://bucket/opened").selected.to_pandas().sort_values("selection_rank")
    assert chosen["instruction"].tolist() == ["Do 4.", "Do 0."]


def test_pages_are_checked_when_ray_data_reads_them(tmp_path, monkeypatch):
    made = publish_rows(tmp_path, [scored_row(output="x" * 4000)])
    asked = []
    monkeypatch.setattr("ray.data.read_parquet", lambda places, **more: asked.append((places, more)))
    assert open_run(made).selected is None
    ((places, more),) = asked
    # What Ray Data does with a fragment in a task: its reader hands these options on.
    read = pads.dataset(places, filesystem=more["filesystem"]).to_table
    assert read(fragment_scan_options=more["fragment_scan_options"]).num_rows == 1
    (part,) = (made / "selected").iterdir()
    data = bytearray(part.read_bytes())
    data[40] ^= 1
    part.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        read(fragment_scan_options=more["fragment_scan_options"])


def test_operators_in_a_pipeline_of_ones_own(ray_session, tmp_path, model_folder):
    import ray.data

    opened = open_run(publish_scored(tmp_path, model_folder, RECORDS))
    settings = ScoreSettings(hardest=1, tau=2.0, alpha=0.0, weight_scale=1.0, weight_clip=10.0)
    stored = opened.scored.select_columns(LIKELIHOODS.names)
    anew = stored.map_batches(add_scores, batch_format="pyarrow", fn_args=(settings, 0)).to_pandas().set_index("id")
    before = opened.to_arrow("scored").to_pandas().set_index("id")
    assert (anew["tss_nce"] == anew["tss_pp"]).all() and (anew["tss"] == before["tss"][anew.index]).all()
    assert not (anew["tss_nce"] == before["tss_nce"][anew.index]).any()

    raw = ray.data.from_items([{"prompt": "Say it.", "completion": "It."}])
    (example,) = raw.map(lambda row: vars(normalise(row))).take_all()
    assert (example["instruction"], example["output"]) == ("Say it.", "It.")


def test_the_lines_that_the_documentation_shows_are_those_that_were_run():
    text = (ROOT / "pipeline" / "README.md").read_text()
    section = text[text.index("## From Python") : text.index("## Export")]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL))
    assert compile(code, "README", "exec")
    for line in (
        ".scored.select_columns(LIKELIHOODS.names)",
        'batch_format="pyarrow", fn_args=(',
        "vars(normalise(row))",
    ):
        assert line in code
