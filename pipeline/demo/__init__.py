"""The embedded default: a generated corpus, and the small scorer in `model/` that has learned its tasks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.demo import corpus

MODEL = Path(__file__).parent / "model"


def prepare(output: Path, rows: int, seed: int) -> tuple[Path, Path, Path]:
    """Put a corpus and the scorer into an output folder, where every machine of a cluster sees them: the arguments of
    `settings`."""
    folder = output / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    examples = folder / f"corpus-{rows}-{seed}.jsonl"
    draft = examples.with_name(f".{examples.name}.{os.getpid()}")
    corpus.write(draft, rows, seed)
    draft.replace(examples)  # the same for the same rows and seed, so another demo may be reading it
    shutil.copytree(MODEL, folder / "scorer", dirs_exist_ok=True)
    return examples, output, folder / "scorer"


def settings(examples: Path, output: Path, model: Path = MODEL) -> dict[str, Any]:
    """The configuration that runs on a generated corpus."""
    return {
        "input": [{"path": str(examples)}],
        "output": str(output),
        "embedder": {"model": "lexical"},
        "scorer": {"model": str(model), "template": "plain", "max_length": 512},
        "select": {"budget": {"token_fraction": 0.15}},
    }
