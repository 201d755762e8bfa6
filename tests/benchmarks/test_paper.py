"""The study of paper.py: cells that repeat, packed rows that do not see each other, intervals and winners, sides kept apart."""

import json
from dataclasses import replace

import numpy as np
import paper_cells
import paper_corpora
import paper_methods
import paper_suite
import paper_table
import paper_training as training
import pytest
import torch
from conftest import byte_tokenizer, random_model, write_jsonl
from paper_cells import Cell
from paper_methods import METHODS
from paper_suite import Suite
from paper_table import Interval
from paper_training import Fit

FIT = Fit(passes=1, tokens=120, learning_rate=1e-2, max_length=200, template="plain", bfloat16=False, short=6)
ROWS = [
    (f"Say {word}.", "now" if place % 2 else "", word * (1 + place % 3), 1.0) for place, word in enumerate("abcdefgh")
]


def encoded(rows=ROWS, fit=FIT):
    return training.encode(training.encoder_of(byte_tokenizer(bos=True), fit), rows)


def test_packed_rows_have_the_likelihoods_and_exact_match_of_rows_alone(model):
    """In every family: against a pass over each row alone, and greedy decoding."""
    ids = encoded()
    packed = training.measure(model, ids, FIT)
    for (prompt, target, _), loglik, exact in zip(ids, packed["loglik"], packed["exact"], strict=True):
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1].double()
        wanted = torch.tensor(target)
        alone = logits.log_softmax(-1).gather(-1, wanted[:, None]).mean().item()
        assert loglik == pytest.approx(alone, abs=1e-4)
        assert exact == int((logits.argmax(-1) == wanted).all())
    training.require_packing(model, ids, FIT)


def test_a_model_that_mixes_packed_rows_is_refused(model):
    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, position_ids, **more):
            return self.inner(input_ids, position_ids=torch.arange(input_ids.shape[1])[None], **more)

    with pytest.raises(ValueError, match="does not keep packed sequences apart"):
        training.require_packing(Mixing(), encoded(), FIT)


def test_a_longer_target_has_no_exact_match_and_a_longer_row_is_left_out():
    rows = [("Say.", "", "abcde", 1.0), ("Say.", "", "abcdef", 1.0), ("Say.", "", "a" * 300, 1.0)]
    ids = encoded(rows)
    assert ids[2] is None
    exact = training.measure(random_model("llama"), ids[:2], FIT)["exact"]
    assert exact[0] in (0, 1) and exact[1] is None  # 6 and 7 tokens with their ends


@pytest.fixture(scope="module")
def cell(model_folder, tmp_path_factory):
    pytest.importorskip("accelerate")  # of the extra `benchmark`
    file = tmp_path_factory.mktemp("selection") / "rows.parquet"
    table = paper_methods.pa.table(
        dict(zip(("instruction", "input", "output", "weight"), zip(*ROWS, strict=True), strict=True))
    )
    paper_methods.pq.write_table(table, file)
    names = ("corpus", "scorer", "run", "version", "unit", "method")
    settings = dict.fromkeys(names, "x") | {"model": "m", "budget": 0.5, "seed": 3, "shared": {"fit": vars(FIT)}}
    return Cell(settings, str(model_folder), file, {"a": ROWS[:5], "b": ROWS[5:]}, FIT, 4)


def figures(cell, rows=ROWS):
    return paper_cells.work(cell, rows, 1)["held_out"]


@pytest.mark.ray  # slow
def test_one_cell_run_twice_gives_the_same_figures(cell):
    first, again = figures(cell), figures(cell)
    assert first == again
    assert [len(first[name]["loglik"]) for name in "ab"] == [5, 3]
    untrained = replace(cell, steps=0)
    assert figures(untrained) != first


@pytest.mark.ray  # slow
def test_another_seed_or_weight_gives_others(cell):
    first = figures(cell)
    assert figures(replace(cell, settings={**cell.settings, "seed": 4})) != first
    assert figures(cell, [(*row[:3], float(place)) for place, row in enumerate(ROWS)]) != first


@pytest.mark.ray  # slow
def test_adapters_are_trained_and_the_rest_stays(cell):
    pytest.importorskip("peft")
    fit = replace(FIT, lora=2)
    model, _ = training.load(cell.model, fit)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    tuned = training.fine_tune(model, encoded(), fit, 3, 0)
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): w for name, w in tuned.named_parameters()
    }
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert any("lora_B" in name and weight.abs().sum() > 0 for name, weight in after.items())
    first, again = (figures(replace(cell, fit=fit)) for _ in range(2))
    assert first == again


def test_finished_cells_are_kept_under_all_that_decides_them(cell, tmp_path):
    other = replace(cell, settings={**cell.settings, "budget": 0.4})
    assert other.digest != cell.digest
    result = {"held_out": {}, "rows": 3, "seconds": 1.0, "core_seconds": 1.0}
    paper_cells.keep(tmp_path, cell, result)
    assert paper_cells.finished(tmp_path) == {cell.digest: {"settings": cell.settings, "result": result}}
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(ValueError, match=r"other.json: no finished cell .* delete it"):
        paper_cells.finished(tmp_path)


def test_no_prompt_is_on_both_sides(tmp_path):
    rows = [{"instruction": f"Say {n % 90}.", "input": "", "output": f"{n}<|endoftext|>"} for n in range(180)]
    file = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"instruction": "No output."}, "no JSON"])
    corpus = paper_corpora.split("c", file, tmp_path, share=0.3, held_out=20, rows=100, chars=None)
    train = [json.loads(line) for line in corpus.train.read_text().splitlines()]
    assert len(train) == corpus.rows and 0 < corpus.rows <= 100 and 0 < len(corpus.held_out) <= 20
    assert not {row["instruction"] for row in train} & {row[0] for row in corpus.held_out}
    assert not any(paper_corpora.END in row["output"] for row in train)
    again = paper_corpora.split("c", file, tmp_path, share=0.3, held_out=20, rows=100, chars=None)
    assert again == corpus
    with pytest.raises(ValueError, match="both sides need some"):
        paper_corpora.split("c", file, tmp_path, share=0.0, held_out=20, rows=100, chars=None)


def values(shift, noise, seeds=3, rows=50, seed=0):
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(9).normal(size=rows)  # rows differ much more than methods
    return {number: [base + shift + rng.normal(0, noise, rows)] for number in range(seeds)}


def test_a_winner_is_named_only_where_every_interval_is_above_zero():
    clear = {"random": values(0, 0.1), "tss": values(0.5, 0.1, seed=1), "zero-shot": {0: values(2, 0)[0]}}
    best, words, near = paper_table.verdict(clear)
    assert best == "tss" and words.startswith("winner: tss") and not near
    best, words, near = paper_table.verdict({**clear, "tss_pp": values(0.49, 0.1, seed=2)})
    assert words.startswith("no winner") and near in (["tss_pp"], ["tss"])
    best, words, near = paper_table.verdict({name: {0: seeds[0]} for name, seeds in clear.items()})
    assert best == "tss" and words.startswith("no winner") and near == ["random"]  # one seed


def test_intervals_of_seeds_that_differ_are_those_of_t():
    shifts = np.array([0.1, 0.2, 0.6])
    interval = paper_table.bootstrap([np.repeat(shifts[:, None], 20, axis=1)])
    half = paper_table.stats.t.ppf(0.975, 2) * shifts.std(ddof=1) / 3**0.5
    assert interval.mean == pytest.approx(0.3) and interval.low < 0.3 - 0.7 * half and interval.high > 0.3 + 0.7 * half
    rows = np.random.default_rng(0).normal(size=400)
    interval = paper_table.bootstrap([np.stack([rows] * 3)])  # seeds alike: what is left is the rows
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * rows.std() / 20, rel=0.1)
    assert paper_table.bootstrap([rows[None]]) == Interval(rows.mean(), -np.inf, np.inf)


def test_the_report_compares_like_with_like_and_shows_the_papers_side(cell):
    def made(method, seed, shift, **more):
        held_out = {"a": {"loglik": values(shift, 0.01, seed=seed)[0][0].tolist(), "exact": [1, None] * 25}}
        settings = {**cell.settings, "method": method, "seed": seed, "budget": 0.15, "unit": "tokens", **more}
        return {"settings": settings, "result": {"held_out": held_out}}

    cells = [made(method, seed, shift) for method, shift in (("random", 0), ("tss", 0.3)) for seed in range(3)]
    bare = made("zero-shot", 0, -1, corpus="", scorer="", unit="", budget="", run="")
    other = made("random", 0, 9, shared={"fit": vars(FIT), "held_out": "others"})
    text = paper_table.report([*cells, bare, other])
    assert "winner: tss, above every other method" in text and text.count("| zero-shot |  | ") == 2
    assert (
        "| paper | Llama-3.2-1B, alpaca | 15% | SUM | 127.493 | 141.825 | 144.603 | TSS++ | +2.778, no interval |"
        in text
    )
    assert "no winner: nothing to compare it with" in text  # the study of other held-out rows
    assert "exact match of a (25 rows)" in text


def test_methods_are_settings_of_the_selection(ray_session, tmp_path, model_folder):
    rows = [{"instruction": f"Say {n % 7}.", "input": f"{n}", "output": f"{n % 7} {n}"} for n in range(60)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    corpus = paper_corpora.split("c", file, tmp_path, share=0.2, held_out=5, rows=None, chars=None)
    scorer = {"scorer": {"model": str(model_folder), "template": "plain", "max_length": 200}}
    scorer |= {"embedder": {"model": "lexical"}, "alternatives": {"k": 2}}
    run = paper_methods.scored(corpus, scorer, [], tmp_path / "scored")
    assert paper_methods.scored(corpus, scorer, [], tmp_path / "scored") == run
    work = tmp_path / "selections"
    work.mkdir()

    def taken(name, seed=0, fraction=0.25, unit="examples"):
        return paper_methods.rows_of(paper_methods.chosen(run, METHODS[name], unit, fraction, seed, work))

    assert len(taken("random")) == int(corpus.rows * 0.25) and taken("random") != taken("random", seed=1)
    assert taken("tss_pp") == taken("tss_pp", seed=1)
    weights = [weight for *_, weight in taken("tss_pp (E)")]
    assert len(weights) == corpus.rows and np.mean(weights) == pytest.approx(1) and np.std(weights) > 0
    assert {row[:3] for row in taken("tss_pp (E) of its top")} == {row[:3] for row in taken("tss_pp")}
    assert len({row[0] for row in taken("tss_pp, capped")}) >= len({row[0] for row in taken("tss_pp")})
    assert len(taken("random", fraction=1.0, unit="tokens")) == corpus.rows == len(paper_methods.scored_rows(run))


def test_the_suite_is_skipped_with_a_word_or_run(tmp_path, model_folder):
    missing = paper_suite.why_not(Suite(tasks=("no_such_task_of_anybody",)))
    assert missing and ("cannot be imported" in missing or "cannot be loaded" in missing)
    pytest.importorskip("lm_eval")
    write_jsonl(tmp_path / "rows.jsonl", [{"q": f"{n}", "right": n % 2} for n in range(6)])
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{right}}",
        "doc_to_choice": ["a", "b"],
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(task))
    suite = Suite(tasks=("own",), include=str(tmp_path))
    assert paper_suite.why_not(suite) is None
    model, tokenizer = training.load(str(model_folder), FIT)
    right = paper_suite.run(model, tokenizer, suite)["own"]
    assert len(right) == 6 and set(right) <= {0.0, 1.0}
