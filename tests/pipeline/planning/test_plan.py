"""A plan says what the run then takes, and what will hurt; it refuses what a run refuses, starts no Ray and writes nothing."""

import json
import random
import sys

import pytest
from conftest import write_jsonl
from small_runs import corpus, manifest_of, run, settings

from pipeline import cli, plan
from pipeline.errors import BadRequest, RunFailed
from pipeline.planning import words
from pipeline.planning.sample import take_sample


@pytest.fixture
def planned(tmp_path, model_folder):
    """The plan of rows under some settings."""

    def made(rows, **more):
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        return plan.plan(settings(tmp_path / "out", [path], model_folder, **more))

    return made


def hazards(made):
    return {hazard.kind for hazard in made.hazards}


@pytest.mark.parametrize("more", [{}, {"scorer__too_long": "truncate_input", "scorer__max_length": 40}])
def test_a_plan_of_a_small_corpus_is_what_the_run_takes(planned, ray_session, tmp_path, model_folder, more):
    rows = [*corpus(80), *corpus(20), {"instruction": "a"}, {"instruction": "a", "input": "b c " * 60, "output": "d"}]
    made = planned(rows, **more)
    taken = manifest_of(run(tmp_path / "out", [tmp_path / "rows.jsonl"], model_folder, **more))
    counts = taken["counts"]
    assert made.rows.exact
    assert (made.rows.corpus, made.rows.duplicates, made.rows.scored) == (
        counts["read"],
        counts["duplicates"],
        counts["scored"],
    )
    assert made.rows.rejected == {name: count / counts["read"] for name, count in counts["rejected"].items()}
    assert made.instructions.distinct == taken["instructions"]
    assert (made.pairs.left, made.pairs.stored, made.pairs.equal) == (
        taken["pairs"]["computed"],
        0,
        taken["pairs"]["reused"],
    )
    assert (made.forward.in_pairs, made.forward.on_cpu) == (
        taken["tokens"]["in_pairs"],
        taken["tokens"]["forwarded"],
    )
    # What the store has then.
    again = planned(rows, **more)
    assert (again.pairs.stored, again.pairs.left, again.forward.on_cpu) == (taken["pairs"]["computed"], 0, 0)
    refreshed = planned([*rows, {"instruction": "Sort the words.", "input": "q w", "output": "new"}], **more)
    assert 0 < refreshed.pairs.left < 12


@pytest.mark.ray  # slow
def test_a_sample_tells_nearly_what_all_rows_do(tmp_path, planned, monkeypatch):
    rng = random.Random(0)
    rows = [
        {
            "instruction": f"{rng.choice(['Sort', 'Count', 'Name', 'Add'])} {rng.randrange(150)} of them, please.",
            "input": " ".join(rng.choices("abcdefgh", k=rng.randrange(1, 20))),
            "output": " ".join(rng.choices("xyz", k=rng.randrange(1, 9))),
        }
        for _ in range(1600)
    ]
    whole = planned(rows)
    monkeypatch.setattr(plan, "take_sample", lambda chunks, seed: take_sample(chunks, seed, 500, 0))
    sampled = planned(rows)
    assert whole.rows.exact
    assert not sampled.rows.exact
    for some, others in (
        (sampled.rows.corpus, whole.rows.corpus),
        (sampled.tokens.prompt, whole.tokens.prompt),
        (sampled.pairs.left, whole.pairs.left),
        (sampled.forward.in_pairs, whole.forward.in_pairs),
        (sampled.forward.on_cpu, whole.forward.on_cpu),
    ):
        assert some == pytest.approx(others, rel=0.15)
    assert sampled.instructions.low <= whole.instructions.distinct <= sampled.instructions.high


@pytest.mark.ray  # slow
def test_rows_that_are_left_out_or_long_are_told(planned):
    rows = [{"instruction": f"Sort {i}.", "input": "b " * (20 + i), "output": "a"} for i in range(100)]
    made = planned(rows, scorer__max_length=200, max_rejected_fraction=0.1)
    assert hazards(made) == {"rejected", "too_long", "near_max_length", "same_output"}
    assert made.rows.rejected["too_long"] == made.rows.rejected_share > 0.1


def test_a_template_without_the_input_is_told(planned, tmp_path):
    template = tmp_path / "short.jinja"
    template.write_text("{{ instruction }}: ")
    rows = [{"instruction": f"Sort {i % 30}.", "input": f"b a {i}", "output": f"{i}"} for i in range(60)]
    assert hazards(planned(rows, scorer__template=str(template))) == {"no_input_slot"}
    assert hazards(planned(rows)) == set()


def test_few_instructions_one_output_and_duplicates_are_told(planned):
    rows = [{"instruction": "Sort.", "input": f"{i % 40}", "output": "yes"} for i in range(60)]
    assert hazards(planned(rows)) == {"tiny_pool", "same_output", "same_instruction", "duplicates"}
    assert planned(rows).pairs.asked == 40 * 2  # there are no alternatives
    assert "no alternative" in planned(rows).notes[0]


def test_what_a_run_takes_away_is_told_and_excluded_texts_are_checked(planned, tmp_path):
    rows = [{"instruction": f"Sort {i % 30}.", "input": f"b a {i}", "output": f"{i}"} for i in range(60)]
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"question": "one two three four five six"}])
    asked = {"exclude": [{"path": str(texts), "ngram": 4}], "dedup__near": 0.9}
    assert hazards(planned(rows, **asked)) == {"not_taken_off"}
    with pytest.raises(BadRequest, match=r"exclude.0.path: .*gone.jsonl"):
        planned(rows, exclude=[{"path": str(tmp_path / "gone.jsonl")}])


def test_hours_follow_from_parameters_and_tokens(planned):
    made = planned(corpus(60))
    for of in made.gpu:
        operations = 2 * made.scorer.working_parameters * made.forward.on_gpu
        assert of.hours * 3600 == pytest.approx(operations / (of.teraflops * 1e12 * of.utilisation), rel=1e-6)
    assert made.cpu.hours * 3600 == pytest.approx(made.forward.on_cpu / made.cpu.tokens_a_second)
    assert made.cpu.measured


def test_what_a_run_refuses_a_plan_refuses(planned):
    for more, key in (
        ({"select__where": "nothing > 1"}, "select.where"),
        ({"scorer__max_length": 4096}, "scorer.max_length"),
        ({"select__quota": {"source": {"other": 0.5}}}, "select.quota.source.other"),
        ({"ray__gpus_per_scorer": 64}, "ray.gpus_per_scorer"),
    ):
        with pytest.raises(BadRequest, match=key):
            planned(corpus(30), **more)


def test_a_corpus_without_rows_for_a_scorer_ends_the_command(planned):
    with pytest.raises(RunFailed, match="empty_output 3"):
        planned([{"instruction": "a", "output": ""}] * 3)


def test_the_command_prints_lines_or_one_object_and_leaves_no_trace(tmp_path, model_folder, capsys):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(60))
    config = tmp_path / "config.yaml"
    asked = settings(tmp_path / "out", [path], model_folder).model_dump(mode="json")
    config.write_text(json.dumps(asked))
    assert cli.main(["plan", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(" ")[0] for line in lines]
    assert names[:8] == ["rows", "tokens", "instructions", "pairs", "forward", "scorer", "time,", "time,"]
    assert cli.main(["plan", str(config), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["version"] == 1
    assert set(made) >= {
        "rows",
        "tokens",
        "instructions",
        "pairs",
        "forward",
        "scorer",
        "gpu",
        "cpu",
        "space",
        "hazards",
    }
    assert not (tmp_path / "out").exists()
    assert cli.main(["plan", str(config), "--set", "scorer.modle=x"]) == 2
    assert "did you mean 'model'" in capsys.readouterr().err


def test_a_plan_starts_no_ray(planned, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda **asked: sys.exit("Ray was started"))
    planned(corpus(60))


def test_three_lines_say_what_a_long_run_takes(planned):
    made = planned(corpus(60))
    lines = words.in_three_lines(made)
    assert len(lines) == 3
    assert f"{made.pairs.left:,} pairs" in lines[0]
    assert "stated" in lines[1]
