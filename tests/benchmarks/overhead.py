"""How much longer a run takes than its scorer alone.

    python tests/benchmarks/overhead.py CONFIG [--set KEY=VALUE ..] [--rounds 3]

One side is `tss run`, whole process: start of Ray, reading, retrieval, placement, scoring, selection, publishing. The other is
one process that holds the same pairs as token ids, block by block as the pipeline would score them, and does nothing but score
them: timed without and with its own start, the loading of the model and of the ids. The two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bounded import run
from scoring_sample import place_corpus, take_sample

CHECKOUT = Path(__file__).resolve().parents[2]


def bare(model: str, dtype: str, sample: Path, threads: int) -> float:
    """Seconds for all pairs of the sample with the model loaded."""
    import torch

    from operators.scoring.batch_budget import FAST
    from operators.scoring.models import load_model
    from operators.scoring.scorer import TargetScorer

    torch.set_num_threads(threads)
    calls = json.loads(sample.read_text())["calls"]
    scorer = TargetScorer(load_model(model, dtype=dtype, device="cpu"), FAST["cpu"])
    scorer.sums(calls[0]["prompts"][:8], calls[0]["targets"][:8])
    began = time.perf_counter()
    for call in calls:
        scorer.sums(call["prompts"], call["targets"])
    return time.perf_counter() - began


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        print(bare(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep the outputs of the runs in this folder")
    options = parser.parse_args()
    threads = str(os.cpu_count())
    wholes, bares, processes, scorings = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.rounds):
            done = run(options.config, (options.keep or folder) / f"run{number}", options.settings)
            wholes.append(done["seconds"])
            scorings.append(done["timings"]["score"])
            config = done["config"]
            if not number:
                job = {
                    "corpus": config["input"],
                    "embedder": config["embedder"]["model"],
                    "k": config["alternatives"]["k"],
                    "base": config["scorer"]["model"],
                    "template": config["scorer"]["template"],
                    "rows": 0,
                    "tokens": 0,
                    "stretches": 1,
                }
                place_corpus(folder / "corpus", job)
                (folder / "sample.json").write_text(json.dumps(take_sample(folder / "corpus", job)))
            command = [sys.executable, __file__, "--bare", config["scorer"]["model"], done["scorer"]["dtype"]]
            command += [str(folder / "sample.json"), threads]
            began = time.perf_counter()
            printed = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                cwd=CHECKOUT,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            )
            processes.append(time.perf_counter() - began)
            bares.append(float(printed.stdout.split()[-1]))
            print(
                f"round {number + 1}: tss run {wholes[-1]:.0f} s ({scorings[-1]:.0f} s of it scoring), "
                f"scorer alone {bares[-1]:.0f} s, {wholes[-1] / bares[-1]:.3f} times",
                flush=True,
            )
    whole, alone, process = map(statistics.median, (wholes, bares, processes))
    print(
        f"medians of {options.rounds}: {whole:.0f} s and {alone:.0f} s, {whole / alone:.3f} times "
        f"({process:.0f} s and {whole / process:.3f} times with the scorer's own start); {done['pairs']['computed']:,} pairs"
    )
    print(
        "seconds by stage of the last run: "
        + ", ".join(f"{name} {value:.1f}" for name, value in done["timings"].items())
    )


if __name__ == "__main__":
    main()
