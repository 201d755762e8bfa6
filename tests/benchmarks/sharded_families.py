"""Models that are split over two processes beside the same models whole: how far the log-probability of a token is off.

    python tests/benchmarks/sharded_families.py [FAMILY ...]

Each family is a small random model with what is peculiar to it switched on, in a process of its own: processes meet once.
The head is a matrix of its own, and then the embedding; the largest difference of both counts. Families that are
not in `operators.scoring.model_families.SPLIT` are tried all the same: so it is known that they must not be split.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
_SHARDS = 2


def compare(family: str) -> str:
    """One line of the table."""
    import numpy as np
    from families import quirky

    from operators.scoring.model_families import SPLIT
    from operators.scoring.models import load_model
    from operators.scoring.scorer import TargetScorer
    from operators.scoring.sharded_scorer import ShardedScorer

    rng = np.random.default_rng(0)
    trunks = [rng.integers(3, 250, length).tolist() for length in (20, 31, 7, 150)]
    prompts = [*trunks, *([*trunk, 5, 6] for trunk in trunks)]
    targets = [rng.integers(3, 250, length).tolist() for length in (4, 9, 3, 8, 1, 2, 12, 5)]
    off, share = 0.0, 0.0
    for tied in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            quirky(family, tie_word_embeddings=tied).save_pretrained(folder)
            model = {"name": folder, "dtype": "float32"}
            sharded = ShardedScorer(model, _SHARDS, 4096, 200)
            whole = TargetScorer(load_model(**model, device="cpu"), 4096, longest=200)
            pairs = zip(sharded.logprobs(prompts, targets), whole.logprobs(prompts, targets), strict=True)
            off = max(off, *(float(np.abs(some - others).max()) for some, others in pairs))
            share = max(share, _size(sharded.model) / _size(whole.model))
            sharded._close()  # a process makes no more than one at a time
    named = "yes" if family in SPLIT else "no"
    return f"| {family} | {named} | {sharded.way} | {off:.1e} | {share:.2f} |"


def _size(model: object) -> int:
    """Numbers that this process holds of a model."""
    local = (weight.to_local() if hasattr(weight, "to_local") else weight for weight in model.parameters())  # type: ignore[attr-defined]
    return sum(weight.numel() for weight in local)


def main(families: list[str]) -> None:
    from families import QUIRKS

    print("| family | split by us | way | off by at most | weights held |\n|---|---|---|---|---|", flush=True)
    for family in families or sorted(QUIRKS):
        command = [sys.executable, __file__, "--alone", family]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ)
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        print(done.stdout.strip() if done.returncode == 0 else f"| {family} | fails: {last[:120]} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(compare(sys.argv[2]))
    else:
        main(sys.argv[1:])
