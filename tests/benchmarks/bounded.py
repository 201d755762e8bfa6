"""What bounded selection saves, and that it selects the same rows.

    python tests/benchmarks/bounded.py CONFIG [--set KEY=VALUE ..] [--bounded-set KEY=VALUE ..]
    python tests/benchmarks/bounded.py demo --set select.budget.token_fraction=0.05

Runs the main job on the same rows with `select.mode: full` and with `select.mode: bounded`, each in a process of its own, and
compares tokens that went through the model, pairs, wall time and selected ids. `demo` stands for the demo's corpus and scorer.
With `--lm-eval-python` (see scoring.py), lm-evaluation-harness scores all pairs of the corpus in float32 as well: the time
until a selection is known without anything of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from scoring import BATCHES, best_batch, run_side
from scoring_sample import make_model, place_corpus, take_sample

CHECKOUT = Path(__file__).resolve().parents[2]


def run(config: str, output: Path, settings: list[str]) -> dict[str, Any]:
    """One run of the main job: its manifest, its selected ids in order, and the wall time of its process."""
    chosen = [part for one in settings for part in ("--set", one)]
    verb = ["demo", "--output", str(output)] if config == "demo" else ["run", config, "--set", f"output={output}"]
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", *verb, *chosen, "--quiet"], cwd=CHECKOUT, check=True)
    seconds = time.perf_counter() - began
    return {**published(output), "seconds": seconds}


def published(output: Path) -> dict[str, Any]:
    """The manifest of an output folder's newest run, and its selected ids in order."""
    folder = output / json.loads((output / "latest.json").read_text())["run"]
    parts = sorted((folder / "selected").glob("*.parquet"))
    ids = [one for part in parts for one in pq.read_table(part, columns=["id"])["id"].to_pylist()]
    return {**json.loads((folder / "manifest.json").read_text()), "ids": ids}


def lm_eval_seconds(options: argparse.Namespace, manifest: dict[str, Any]) -> float:
    """Seconds that lm-eval takes for all pairs of the run's corpus, its model loaded, at its best batch size; with
    `lm_eval_tokens`, those of a sample out of all blocks, times the tokens of all pairs over those of the sample."""
    config, work = manifest["config"], Path(options.work)
    job = {
        "corpus": config["input"],
        "folder": str(work / "corpus"),
        "embedder": config["embedder"]["model"],
        "k": config["alternatives"]["k"],
        "base": config["scorer"]["model"],
        "template": config["scorer"]["template"],
        "rows": 0,
        "tokens": options.lm_eval_tokens,
        "stretches": 1000,
        "model": str(work / "model"),
        "sample": str(work / "sample.json"),
        "threads": options.threads,
        "search_tokens": 1 << 15,
    }
    make_model(Path(job["model"]), "as it is", Path(job["base"]))
    place_corpus(Path(job["folder"]), job)
    sample = take_sample(Path(job["folder"]), job)
    Path(job["sample"]).write_text(json.dumps(sample))
    scored = sum(len(ids) for call in sample["calls"] for side in ("prompts", "targets") for ids in call[side])
    options.work = work
    job["batch"], _ = best_batch(job, options)
    return run_side("lm-eval", job, options)["seconds"] * manifest["tokens"]["in_pairs"] / scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a YAML configuration, or demo")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="for both runs")
    parser.add_argument("--bounded-set", action="append", default=[], help="for the bounded run alone")
    parser.add_argument(
        "--full", type=Path, help="output folder of a run of the same with mode: full, instead of a new one"
    )
    parser.add_argument("--lm-eval-python", help="the interpreter that has lm_eval")
    parser.add_argument("--lm-eval-batch", type=int, choices=BATCHES, help="instead of searching the best")
    parser.add_argument(
        "--lm-eval-tokens", type=int, default=0, help="time so many tokens and scale; default: all pairs"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.full = options.full.resolve() if options.full else None
    os.chdir(CHECKOUT)
    with tempfile.TemporaryDirectory() as folder:
        options.work = folder
        bounded = run(
            options.config, Path(folder) / "bounded", ["select.mode=bounded", *options.settings, *options.bounded_set]
        )
        if options.full:
            full = published(options.full)
            full["seconds"] = sum(full["timings"].values())
        else:
            full = run(options.config, Path(folder) / "full", options.settings)
        share = {kind: bounded["tokens"][kind] / full["tokens"][kind] for kind in ("forwarded", "in_pairs")}
        common = len(set(bounded["ids"]) & set(full["ids"]))
        jaccard = common / max(1, len(set(bounded["ids"]) | set(full["ids"])))
        print(
            f"\n{options.config} {' '.join(options.settings)}; bounded: {' '.join(options.bounded_set) or 'the same'}\n\n"
            "| | forwarded tokens | pairs | scoring s | wall s | selected | bounded rows |\n|---|---|---|---|---|---|---|"
        )
        for name, one in (("full", full), ("bounded", bounded)):
            scoring = sum(value for stage, value in one["timings"].items() if stage.startswith("score"))
            print(
                f"| {name} | {one['tokens']['forwarded']:,} | {one['pairs']['computed']:,} | {scoring:.0f} "
                f"| {one['seconds']:.0f} | {one['counts']['selected']:,} | {one['counts']['bounded']:,} |"
            )
        print(
            f"\nbounded forwards {share['forwarded']:.1%} of the tokens of full scoring "
            f"({share['in_pairs']:.1%} before prefixes are shared); "
            f"ids equal in order: {bounded['ids'] == full['ids']}; Jaccard {jaccard:.4f}"
        )
        print(
            "rounds of the bounded run: "
            + yaml.safe_dump(bounded["timings"], default_flow_style=True, width=1000).strip()
        )
        if options.lm_eval_python:
            other = lm_eval_seconds(options, full)
            print(
                f"lm-eval in float32, all pairs: {other:.0f} s; {other / bounded['seconds']:.1f} times the bounded run's wall, "
                f"{other / scoring:.1f} times its scoring"
            )


if __name__ == "__main__":
    main()
