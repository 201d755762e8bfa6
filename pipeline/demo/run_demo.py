"""`tss demo`: the main job on a generated corpus with the bundled scorer, and how well scores find what is planted in it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from pipeline import demo, flow, read_config
from pipeline.config import Config
from pipeline.demo import truth
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest
from pipeline.read_config import section_of
from pipeline.runs.output import check_output
from pipeline.runs.summary import Summary


def run_demo(arguments: argparse.Namespace, reporter: Reporter) -> Summary:
    """Run it with the arguments of the command line; raises BadRequest before any work."""
    if any(section_of(text) == "input" for text in arguments.overrides):
        raise BadRequest("--set input: `tss demo` runs on its own corpus; accepted: `tss run CONFIG` for any other")
    config = _config_for(arguments, Path("corpus.jsonl"), arguments.output, demo.MODEL)
    if "://" in config.output:
        raise BadRequest(
            f"output: {config.output!r}: `tss demo` writes to a folder; accepted: `tss run CONFIG` for URLs"
        )
    arguments.output_folder = check_output(config.output)
    prepared = demo.prepare(Path(arguments.output_folder), arguments.rows, config.seed)
    summary = flow.run(_config_for(arguments, *prepared), reporter, fresh=arguments.fresh)
    if config.select.mode == "bounded":
        judged = "\nplanted      not judged: bounded selection leaves most rows without the scores to compare"
    else:
        judged = truth.section(truth.read(Path(summary.run)))
    return replace(summary, text=f"{summary.text}\n{judged}")


def _config_for(arguments: argparse.Namespace, corpus: Path, output: Path, model: Path) -> Config:
    data = read_config.override(demo.settings(corpus, output, model), arguments.overrides)
    return read_config.validate(data, "the demo's configuration")
