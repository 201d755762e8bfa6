"""Does selecting by a score help a model? One base model, fine-tuned on what each selector takes.

    pip install -e '.[benchmark]'                          # the Trainer of transformers runs on accelerate
    python tests/benchmarks/downstream.py demo
    python tests/benchmarks/downstream.py run OUTPUT --model BASE --held-out-tasks 20   # any published run, any causal LM

`demo` generates a corpus with equal shares of all five kinds, scores it with the bundled scorer, and takes as base model that
scorer after its instructions have been shuffled (trained on prompts that a random task answers): it can do every
transformation and follows no instruction, and fine-tuning has to teach which instruction means which. It is measured by exact
match on inputs that are in no training. `run` takes the rows of a published run (`tss run`) with a column `task`: some tasks
are held out of every selection, and the likelihood of their outputs after fine-tuning is the measure. Both measures are
printed for both.

Every selection is made by the code of `tss select`: from the top of a ranking, or drawn at a temperature. Weighted training
takes all rows and multiplies the loss of each by its weight. Trainings at the same fraction get the same number of selected
tokens; all
get the same number of steps and of tokens in a step. Intervals are 95% t-intervals over seeds (the order of the rows; where
rows are drawn, also which).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import downstream_training as training
import numpy as np
import planted
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
import yaml
from scipy import stats

from operators.prompts.template import Template, from_text, load_template
from operators.selection import filter
from pipeline import demo, flow, read_config
from pipeline.config_select import Select
from pipeline.demo import corpus
from pipeline.demo.tasks import BY_DOMAIN
from pipeline.engine.progress import Reporter
from pipeline.engine.session import session
from pipeline.runs import open_run

# By name: keys of the configuration that a selection sets. Perplexity and the ratio have no agreed direction, so both are
# tried; highest-IFD selection leaves out rows of 1 and above, as its authors do. A draw by perplexity is one by the mean
# log-likelihood, which orders as perplexity does and is no more skewed than tss_pp.
PLAIN: dict[str, Any] = {"select.temperature": 0}
EVEN = "even"  # a cap of one and a half times a cluster's even share of the budget's rows
SELECTORS: dict[str, dict[str, Any]] = {
    "default": {},
    "tss_pp, top": PLAIN,
    **{f"tss_pp, temperature {t:g}": {"select.temperature": t} for t in (0.25, 0.5, 1.0, 2.0)},
    "tss_pp, top, capped by cluster": {**PLAIN, "select.max_per": {"cluster": EVEN}},
    "tss, top": {**PLAIN, "select.score": "tss"},
    "random (infinite temperature)": {"select.temperature": "infinite"},
    "ppl, lowest": {**PLAIN, "select.score": {"ppl": -1.0}},
    "ppl, temperature 0.5": {"select.score": "loglik_mean", "select.temperature": 0.5},
    "ppl, highest": {**PLAIN, "select.score": "ppl"},
    "ifd, lowest": {**PLAIN, "select.score": {"ifd": -1.0}},
    "ifd, highest below 1": {**PLAIN, "select.score": "ifd", "select.where": "ifd < 1"},
    "ifd_loss, lowest": {**PLAIN, "select.score": {"ifd_loss": -1.0}},
    "length, longest": {**PLAIN, "select.score": "length"},
}
WEIGHTED = "all rows, loss times weight"
REFERENCES = ("default",)
ALL = "all rows"
_TEXTS = ["instruction", "input", "output"]
Selected = tuple[str, float, int | None, list[training.Pair]]  # selector, fraction, its seed where it has one, its rows


@dataclass(frozen=True)
class Problem:
    """What is trained on and measured with: a scored run, a filter for its training rows, held-out pairs, a base model."""

    run: Path
    where: str | None
    held_out: list[training.Pair]
    base: str


def shuffle_instructions(folder: Path, options: argparse.Namespace) -> None:
    """Save the bundled scorer after training on prompts of its own training side that a random task answers."""
    rng, render, pairs = random.Random(5), load_template("plain").render, []
    for _ in range(40_000):
        task, items = corpus.draw_pair(rng, for_training=True)
        answer = rng.choice(BY_DOMAIN[task.domain]).answer(items)
        pairs.append((render(rng.choice(task.instructions), " ".join(items)), answer, 1.0))
    model, tokenizer = training.load(str(demo.MODEL))
    fit = {"steps": options.base_steps, "tokens": 2 * options.tokens, "learning_rate": 1e-3, "seed": 5}
    training.fine_tune(model, tokenizer, pairs, **fit).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def demo_problem(work: Path, options: argparse.Namespace) -> Problem:
    """The planted corpus, scored; inputs that are in none of its rows; the base model that follows no instruction."""
    run = planted.scored(work, options.rows, options.k, planted.EQUAL_SHARES, options.seed, [])
    base = work / f"base-{options.base_steps}-{options.tokens}"
    if not base.exists():
        shuffle_instructions(work / "base-unfinished", options)
        (work / "base-unfinished").rename(base)
    known = {json.loads(line)["input"] for line in (work / "corpus.jsonl").read_text().splitlines()}
    rng, render, held_out = random.Random("downstream"), load_template("plain").render, []
    while len(held_out) < options.held_out:
        task, items = corpus.draw_pair(rng, for_training=False)
        if " ".join(items) not in known:
            held_out.append((render(rng.choice(task.instructions), " ".join(items)), task.answer(items), 1.0))
    return Problem(run, None, held_out, str(base))


def run_problem(options: argparse.Namespace) -> Problem:
    """A published run with a column `task`; some of its tasks are held out."""
    run = Path(open_run.find_run(str(options.run))[1])
    template = template_of(run, options.model)
    columns = ["id", "instruction", "input", "output", "extra"]
    rows = pq.read_table(run / "scored", columns=columns).sort_by("id").to_pylist()
    by_task: dict[str, list[training.Pair]] = {}
    for row in rows:
        pair = (template.render(row["instruction"], row["input"]), row["output"], 1.0)
        by_task.setdefault(json.loads(row["extra"]).get("task"), []).append(pair)
    names = random.Random(options.seed).sample(sorted(name for name in by_task if name), options.held_out_tasks)
    # Ids are hashes, so the first rows of a task are a random sample of it.
    held_out = [pair for name in names for pair in by_task[name][: max(1, options.held_out // len(names))]]
    return Problem(run, f"task not in {names!r}", held_out, options.model)


def template_of(run: Path, model: str) -> Template:
    """The template of a run as its manifest holds it; a chat template is that of the base model's tokenizer."""
    known = open_run.read_manifest(str(run))
    name, text = known.config["scorer"]["template"], known.scorer.template_text
    return load_template(name, training.load(model)[1]) if name == "chat" else from_text(name, text)


def selections(problem: Problem, work: Path, options: argparse.Namespace) -> Iterator[Selected]:
    """Every selection by the code of `tss select`: at the largest fraction, and of that the prefixes that the others are,
    unless it is capped."""
    template = template_of(problem.run, problem.base)
    for name, keys in options.selectors.items():
        capped = EVEN in keys.get("select.max_per", {}).values()
        for seed in range(options.seeds) if _drawn(problem, keys) else [None]:
            for at_most in options.fractions if capped else [max(options.fractions)]:
                run = _selected(problem, work, keys, at_most, seed or 0)
                rows = pq.read_table(run / "selected", columns=[*_TEXTS, "n_prompt_tokens", "n_target_tokens"])
                total = json.loads((run / "manifest.json").read_text())["budget"]["corpus"]
                for fraction in [at_most] if capped else options.fractions:
                    yield name, fraction, seed, _pairs(_prefix(rows, int(total * fraction + 1e-9), name), template)
    yield ALL, 1.0, None, _pairs(_scored(problem, _TEXTS), template)
    for scale in options.weights:
        run = _selected(problem, work, {"score.weight_scale": scale, "select.temperature": 0}, 0.05, 0)
        weighed = Problem(run, problem.where, [], problem.base)
        yield f"{WEIGHTED}, lambda {scale:g}", 1.0, None, _pairs(_scored(weighed, [*_TEXTS, "weight"]), template)


def _drawn(problem: Problem, keys: dict[str, Any]) -> bool:
    """Whether the rows that are taken depend on the seed."""
    select = {key.partition(".")[2]: value for key, value in keys.items() if key.startswith("select.")}
    return bool(Select.model_construct(**select).drawn_at)


def _selected(problem: Problem, work: Path, keys: dict[str, Any], fraction: float, seed: int) -> Path:
    """A run that selects by these keys from the scored one."""
    known = open_run.read_manifest(str(problem.run))
    select: dict[str, Any] = {"budget": {"token_fraction": fraction}}
    filters = [f"({condition})" for condition in (problem.where, keys.get("select.where")) if condition]
    data = {**known.config, "seed": seed, "output": str(work / "selections")}
    data["score"], data["select"] = {}, select  # the defaults, whatever the run has selected by
    for key, value in keys.items():
        section, _, inner = key.partition(".")
        data[section][inner] = value
    data["select"]["where"] = " and ".join(filters) or None
    if EVEN in select.get("max_per", {}).values():
        clusters = len(pq.read_table(problem.run / "scored", columns=["cluster"])["cluster"].unique())
        data["select"]["max_per"] = {"cluster": int(1.5 * fraction * known.counts.scored / clusters) + 1}
    config = read_config.validate(data, "downstream")
    return Path(flow.select(config, str(problem.run), Reporter(quiet=True)).run)


def _prefix(rows: pa.Table, asked: int, name: str) -> pa.Table:
    """The longest prefix of the selected rows whose cost fits."""
    costs = np.add(*(rows[column].to_numpy().astype(np.int64) for column in ("n_prompt_tokens", "n_target_tokens")))
    count = int(np.searchsorted(costs.cumsum(), asked, side="right"))
    instructions, used = len(rows["instruction"][:count].unique()), costs[:count].sum()
    short = "; it has no more rows" if count == len(rows) and asked - used > costs.max() else ""
    print(f"{name}: {count:,} rows of {instructions} instructions, {used:,} of {asked:,} tokens{short}", flush=True)
    return rows.slice(0, count)


def _scored(problem: Problem, columns: list[str]) -> pa.Table:
    """Columns of the rows that may be trained on."""
    table = pq.read_table(problem.run / "scored", columns=[*columns, "extra"])
    return table.filter(filter.evaluate(filter.parse(problem.where), table)) if problem.where else table


def _pairs(rows: pa.Table, template: Any) -> list[training.Pair]:
    """Prompt, target and weight of rows; a row without a weight, having no score, does not count."""
    weights = rows["weight"].fill_null(0.0).to_pylist() if "weight" in rows.column_names else [1.0] * len(rows)
    return [
        (template.render(row["instruction"], row["input"]), row["output"], weight)
        for row, weight in zip(rows.select(_TEXTS).to_pylist(), weights, strict=True)
    ]


def extra_selector(text: str) -> tuple[str, dict[str, Any]]:
    """NAME: KEY=VALUE ..., each value YAML."""
    name, _, settings = text.partition(":")
    pairs = (setting.partition("=") for setting in settings.split())
    return name.strip(), {key: yaml.safe_load(value) for key, _, value in pairs}


def cell(
    base: str, pairs: list[training.Pair], held_out: list[training.Pair], fit: dict[str, Any], seed: int
) -> dict[str, float]:
    """One fine-tuning and its measure, on one core or one GPU."""
    torch.set_num_threads(1)
    model, tokenizer = training.load(base)
    return training.evaluate(training.fine_tune(model, tokenizer, pairs, seed=seed, **fit), tokenizer, held_out)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% t-interval."""
    half = (
        stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    )
    return float(np.mean(values)), float(half)


def measure(problem: Problem, work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All cells on Ray, one core (or one GPU) each."""
    slots, cores = ray.cluster_resources()["CPU"], os.cpu_count() or 1
    share = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": max(1, int(slots / cores))}
    remote, held_out = ray.remote(**share)(cell), ray.put(problem.held_out)
    fit = {"steps": options.steps, "tokens": options.tokens, "learning_rate": options.learning_rate}
    started: dict[Any, dict[str, Any]] = {}
    # All selections first: trainings would leave their tasks no core.
    for name, fraction, fixed, pairs in list(selections(problem, work, options)):
        stored = ray.put(pairs)
        for seed in range(options.seeds) if fixed is None else [fixed]:
            known = {"selector": name, "fraction": fraction, "seed": seed, "rows": len(pairs)}
            started[remote.remote(problem.base, stored, held_out, fit, seed)] = known
    results = []
    while started:
        (done,), _ = ray.wait(list(started), num_returns=1)
        results.append({**started.pop(done), **ray.get(done)})
        print(f"  {len(results)} done, {len(started)} to go: {json.dumps(results[-1])}", flush=True)
    return results


def report(results: list[dict[str, Any]], base: dict[str, float], measured: str, reference: str) -> str:
    """A table of means with intervals, and how far below the reference every other selector is, seed by seed."""
    cells: dict[tuple[str, float], dict[int, float]] = {}
    for one in results:
        cells.setdefault((one["selector"], one["fraction"]), {})[one["seed"]] = one[measured]
    fractions = sorted({fraction for _, fraction in cells if fraction < 1})
    names = list(dict.fromkeys(name for name, fraction in cells if fraction == fractions[0]))
    lines = [f"{measured}; the base model has {base[measured]:.3f}; the reference is {reference}", ""]
    heads = [f"{fraction:.0%} | reference less it" for fraction in fractions]
    lines += [f"| selector | {' | '.join(heads)} |", "|---" * (1 + 2 * len(fractions)) + "|"]
    for name in names:
        columns = []
        for fraction in fractions:
            own, best = cells[name, fraction], cells.get((reference, fraction), {})
            mean, half = interval(list(own.values()))
            gap, width = interval([best[seed] - own[seed] for seed in own if seed in best] or [np.nan])
            difference = "reference" if name == reference else f"{gap:+.3f} ± {width:.3f}"
            columns.append(f"{mean:.3f} ± {half:.3f} | {difference}")
        lines.append(f"| {name} | {' | '.join(columns)} |")
    for name in dict.fromkeys(name for name, fraction in cells if fraction == 1):
        mean, half = interval(list(cells[name, 1.0].values()))
        lines.append(f"| {name} | {mean:.3f} ± {half:.3f} |" + " |" * (2 * len(fractions) - 1))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    generated = kinds.add_parser("demo", help="the planted corpus and a small model")
    generated.add_argument("--rows", type=int, default=36_000)
    generated.add_argument("--k", type=int, default=16, help="alternatives of the scoring run")
    generated.add_argument(
        "--base-steps", type=int, default=400, help="steps that shuffle the base model's instructions"
    )
    generated.add_argument(
        "--work", type=Path, help="folder for corpus, run and base model, used again where they exist"
    )
    of_run = kinds.add_parser("run", help="a published run whose rows name tasks")
    of_run.add_argument("run", type=Path, help="an output folder, or one of its runs/<id>")
    of_run.add_argument("--model", required=True, help="base model: hub name or folder")
    of_run.add_argument("--held-out-tasks", type=int, default=20)
    for kind in (generated, of_run):
        kind.add_argument("--held-out", type=int, default=2000, help="pairs that are measured")
        kind.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.15])
        kind.add_argument("--selectors", nargs="*", default=list(SELECTORS), choices=list(SELECTORS))
        kind.add_argument("--also", action="append", default=[], metavar="NAME: KEY=VALUE ...", help="another selector")
        kind.add_argument(
            "--weights", nargs="*", type=float, default=[0.5, 1.0, 2.0], help="lambdas of weighted trainings"
        )
        kind.add_argument("--seeds", type=int, default=5)
        kind.add_argument("--steps", type=int, default=200)
        kind.add_argument("--tokens", type=int, default=800, help="tokens of a batch")
        kind.add_argument("--learning-rate", type=float, default=5e-4)
        kind.add_argument("--seed", type=int, default=0, help="of the corpus, or of the choice of tasks")
        kind.add_argument("--json", type=Path, help="write every cell to this file")
    options = parser.parse_args()
    options.selectors = {name: SELECTORS[name] for name in options.selectors} | dict(map(extra_selector, options.also))
    with tempfile.TemporaryDirectory() as folder:
        work = getattr(options, "work", None) or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        problem = demo_problem(work, options) if options.kind == "demo" else run_problem(options)
        base = training.evaluate(*training.load(problem.base), problem.held_out)
        print(f"base model: {json.dumps(base)}", flush=True)
        with session(None):
            results = measure(problem, work, options)
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "base": base, "cells": results}, default=str))
    for measured in ("exact_match", "loglik"):
        for reference in [name for name in REFERENCES if name in options.selectors] or list(options.selectors)[:1]:
            print("\n" + report(results, base, measured, reference))


if __name__ == "__main__":
    main()
