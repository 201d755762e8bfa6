"""From how many saved tokens on a shared segment pays: the scorer's time by that number.

    python tests/benchmarks/sharing.py WORK/samples/SAMPLE.json WORK/models/20m --least 1 8 24 96 1000000

Sample and model are those that scoring.py leaves in its work folder. The settings take turns; a number larger than any saving
shares nothing. All must give the same sums.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from operators.scoring import batching, trie  # noqa: E402
from operators.scoring.batch_budget import FAST  # noqa: E402
from operators.scoring.models import load_model  # noqa: E402
from operators.scoring.scorer import TargetScorer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sample", type=Path)
    parser.add_argument("model")
    parser.add_argument("--least", type=int, nargs="+", default=[1, 8, 24, 96, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    (call, *_) = json.loads(options.sample.read_text())["calls"]
    scorer = TargetScorer(load_model(options.model, dtype=options.dtype, device="cpu"), FAST["cpu"])
    seconds: dict[int, list[float]] = {least: [] for least in options.least}
    forwarded, sums = {}, {}
    build = trie.build_trie
    for _ in range(options.rounds):
        for least in options.least:
            batching.build_trie = lambda flat, bounds, least=least: build(flat, bounds, least)
            before, began = scorer.forwarded_tokens, time.perf_counter()
            sums[least] = scorer.sums(call["prompts"], call["targets"])
            seconds[least].append(time.perf_counter() - began)
            forwarded[least] = scorer.forwarded_tokens - before
    tokens = sum(map(len, call["prompts"])) + sum(map(len, call["targets"]))
    gap = max(float(np.abs(found - sums[options.least[0]]).max()) for found in sums.values())
    print(f"{len(call['prompts']):,} pairs, {tokens:,} tokens; sums differ by at most {gap:.1e}")
    for least, times in seconds.items():
        print(f"least saved {least:>9,}: {statistics.median(times):6.1f} s, {forwarded[least]:>9,} tokens forwarded")


if __name__ == "__main__":
    main()
