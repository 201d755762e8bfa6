"""The experiments of arXiv 2602.03103 as one command: which selection of a corpus makes the best model?

    pip install -e '.[benchmark]'
    python tests/benchmarks/paper.py run WORK --corpora alpaca=alpaca.jsonl tasks20=tasks20.jsonl \\
      --scorers smollm2=SMOLLM2:chat --models gemma3=GEMMA3 --budgets 0.05 0.15 --seeds 3
    python tests/benchmarks/paper.py table WORK           # what finished cells say, also while others are worked

A cell is a corpus, a scorer, a trained model, a budget by examples or tokens, a method and a seed. Rows are held out by a hash
of their prompts before anything is scored; `tss run` scores the others once for each scorer, and `tss select` takes what each
method takes. Cells run as tasks of Ray, a GPU each where there is one, and stay in WORK/cells in files that are named by all
that decides their figures: the same command goes on where it was stopped. All trainings of a budget get the same number of
steps, and of tokens in a step, to within a row; weightings (E) too, which draw theirs from all rows. Measured are likelihoods
of held-out responses of all corpora, exact match of short ones, and lm-eval's tasks where they are at hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import paper_cells
import paper_corpora
import paper_methods
import paper_suite
import paper_table
import paper_training
import torch
import transformers
from downstream import extra_selector
from paper_cells import Cell
from paper_corpora import Corpus, digest_of
from paper_methods import METHODS, Method
from paper_suite import Suite
from paper_training import Fit

from operators.model_files import version_of
from operators.prompts.template import source_of
from pipeline.engine.session import session


def named(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted: NAME=PATH")
    return name, value


def scorer_settings(value: str, options: argparse.Namespace) -> dict[str, Any]:
    """The configuration of a scoring run by PATH or PATH:TEMPLATE, without its input and output."""
    model, _, template = value.partition(":")
    scorer = {"model": model, "template": template or "alpaca", "max_length": options.scorer_length}
    return {"scorer": scorer, "embedder": {"model": options.embedder}, "alternatives": {"k": options.k}}


def cells_of(options: argparse.Namespace, corpora: list[Corpus], others: list[Corpus]) -> Iterator[Cell]:
    """Every cell, in the order of the work: budget by budget and seed by seed, so that a stop leaves whole seeds."""
    fit, suite = fit_of(options), suite_of(options)
    held_out = {corpus.name: corpus.held_out for corpus in [*corpora, *others]}
    shared = {
        "fit": asdict(fit),
        "template": source_of(fit.template),
        "held_out": digest_of(json.dumps(held_out)),
        "suite": asdict(suite) if suite else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    models = {name: (path, version_of(path)) for name, path in options.models}
    for name, (path, version) in models.items():
        bare: dict[str, Any] = dict.fromkeys(("corpus", "scorer", "unit", "budget"), "")
        settings = {
            **bare,
            "shared": shared,
            "method": paper_table.ZERO_SHOT,
            "seed": 0,
            "model": name,
            "version": version,
        }
        yield Cell(settings, path, None, held_out, fit, 0, suite)
    runs: dict[tuple[str, str], Path] = {}
    for corpus in corpora:
        for name, value in options.scorers:
            config = scorer_settings(value, options)
            runs[corpus.name, name] = paper_methods.scored(corpus, config, options.overrides, options.work / "scored")
    totals = {
        (run, name): paper_training.tokens_of(path, paper_methods.scored_rows(run), fit)
        for run in runs.values()
        for name, (path, _) in models.items()
    }
    for unit, budget, seed in product(options.units, options.budgets, range(options.seeds)):
        for ((corpus, scorer), run), (method, selector) in product(runs.items(), options.selectors.items()):
            if not paper_methods.runs_at(selector, method, budget):
                continue
            rows = paper_methods.chosen(run, selector, unit, budget, seed, options.work / "selections")
            taken = {"keys": asdict(selector), "rows": digest_of(json.dumps(paper_methods.rows_of(rows)))}
            for name, (path, version) in models.items():
                steps = fit.steps(budget * totals[run, name])
                where = {"corpus": corpus, "scorer": scorer, "run": run.name, "model": name, "version": version}
                which = {"unit": unit, "budget": budget, "method": method, "seed": seed, "steps": steps}
                yield Cell({**where, **which, **taken, "shared": shared}, path, rows, held_out, fit, steps, suite)


def fit_of(options: argparse.Namespace) -> Fit:
    """The options that say how to train."""
    return Fit(
        passes=options.passes,
        tokens=options.tokens,
        learning_rate=options.learning_rate,
        max_length=options.max_length,
        template=options.template,
        bfloat16=options.dtype == "bfloat16",
        lora=options.lora,
        short=options.short,
    )


def suite_of(options: argparse.Namespace) -> Suite | None:
    """lm-eval's tasks, or None with a word why not."""
    suite = Suite(tuple(options.suite), options.suite_include, options.suite_limit)
    why = paper_suite.why_not(suite) if options.suite else "no tasks are asked for"
    if why is None:
        return suite
    print(f"SUM is skipped: {why}", flush=True)
    return None


def run(options: argparse.Namespace) -> int:
    """Split, score, select, train and measure; print the tables. The exit status."""
    folders = {name: options.work / name for name in ("corpora", "scored", "selections", "cells")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    sizes = {"share": options.share, "held_out": options.held_out, "rows": options.rows, "chars": options.chars}
    corpora, others = (
        [paper_corpora.split(name, Path(path), folders["corpora"], **sizes) for name, path in some]
        for some in (options.corpora, options.measure)
    )
    with session(options.address):
        # All selections first: trainings would leave their tasks no core.
        cells = list(cells_of(options, corpora, others))
        failed = paper_cells.work_all(cells, folders["cells"], options.at_once)
    finished = paper_cells.finished(folders["cells"])
    print("\n" + paper_table.report([finished[cell.digest] for cell in cells if cell.digest in finished]))
    if failed:
        print(f"{failed} cells failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    table = kinds.add_parser("table", help="what the finished cells of a folder say")
    study = kinds.add_parser("run", help="work all cells that are not finished, and print the same")
    for kind in (table, study):
        kind.add_argument("work", type=Path, help="folder of everything that is made; the same one goes on")
    several = {"type": named, "nargs": "+", "metavar": "NAME=PATH"}
    study.add_argument("--corpora", **several, required=True, help="JSON lines, trained on and measured")
    study.add_argument("--measure", **several, default=[], help="corpora that are measured alone")
    study.add_argument("--scorers", **several, required=True, help="models that score: PATH or PATH:TEMPLATE")
    study.add_argument("--models", **several, required=True, help="models that are trained")
    study.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.15, 0.45, 0.75, 1.0])
    study.add_argument("--units", nargs="+", default=[paper_methods.TOKENS], choices=list(paper_methods.BUDGETS))
    study.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    study.add_argument("--also", action="append", default=[], metavar="NAME: KEY=VALUE ...", help="another selection")
    study.add_argument("--seeds", type=int, default=3)
    study.add_argument("--rows", type=int, help="of a corpus that are trained on at most")
    study.add_argument("--chars", type=int, help="of a row at most; longer ones are left out of both sides")
    study.add_argument("--share", type=float, default=0.1, help="of the prompts that is held out")
    study.add_argument("--held-out", type=int, default=500, help="rows of each corpus that are measured at most")
    study.add_argument("--k", type=int, default=4, help="alternatives (the paper: 4)")
    study.add_argument("--embedder", default="lexical")
    study.add_argument("--scorer-length", type=int, default=1024, help="tokens of prompt and output together")
    study.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of `tss run`")
    study.add_argument("--template", default=Fit.template, help="of trained models")
    study.add_argument("--passes", type=float, default=Fit.passes, help="over the tokens of a budget")
    study.add_argument("--tokens", type=int, default=Fit.tokens, help="of a batch")
    study.add_argument("--learning-rate", type=float, default=Fit.learning_rate)
    study.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank instead of all weights")
    study.add_argument("--max-length", type=int, default=Fit.max_length, help="of a trained row, in tokens")
    study.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of trainings (autocast)")
    study.add_argument("--short", type=int, default=Fit.short, help="tokens of a target whose exact match is measured")
    study.add_argument("--suite", nargs="*", default=list(paper_suite.TASKS), help="tasks of lm-eval")
    study.add_argument("--suite-include", metavar="DIR", help="folder with tasks of your own for lm-eval")
    study.add_argument("--suite-limit", type=int, help="questions of each task")
    study.add_argument("--at-once", type=int, help="cells at a time (default: one for each GPU, else one)")
    study.add_argument(
        "--address", help="of a Ray cluster; code, models and WORK lie at the same paths on all machines"
    )
    options = parser.parse_args(words)
    if options.kind == "run":
        extra = {name: Method(keys) for name, keys in map(extra_selector, options.also)}
        options.selectors = {name: METHODS[name] for name in options.methods} | extra
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    if options.kind == "run":
        return run(options)
    print(paper_table.report(list(paper_cells.finished(options.work / "cells").values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
