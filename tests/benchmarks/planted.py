"""The demo's corpus in any size and mixture, scored by `tss run`: shared by truth.py and downstream.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline import demo
from pipeline.demo import corpus
from pipeline.runs import open_run
from pipeline.storage.pointer import POINTER

CHECKOUT = Path(__file__).resolve().parents[2]
EQUAL_SHARES = dict.fromkeys(corpus.KIND_SHARES, 0.2)


def scored(work: Path, rows: int, k: int, shares: Mapping[str, float], seed: int, overrides: list[str]) -> Path:
    """A published run over `work/corpus.jsonl` with `k` alternatives, made unless `work` holds one already."""
    work.mkdir(parents=True, exist_ok=True)
    output, asked = work / "run", work / "asked.json"
    wanted = json.dumps({"rows": rows, "k": k, "shares": dict(shares), "seed": seed, "overrides": overrides})
    if (output / POINTER).exists():
        if asked.read_text() != wanted:
            raise SystemExit(f"{work}: holds a run of {asked.read_text()}, and {wanted} is asked; take another folder")
        return Path(open_run.find_run(str(output))[1])
    corpus.write(work / "corpus.jsonl", rows, seed, shares)
    settings = demo.settings(work / "corpus.jsonl", output)
    (work / "config.yaml").write_text(json.dumps({**settings, "alternatives": {"k": k}, "seed": seed}))
    asked.write_text(wanted)
    extra = [word for one in overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "pipeline", "run", str(work / "config.yaml"), *extra]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    return Path(open_run.find_run(str(output))[1])
