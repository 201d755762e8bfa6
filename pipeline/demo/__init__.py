"""The embedded default: a generated corpus, and the small scorer in `model/` that has learned its tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent / "model"


def settings(folder: Path, rows: int, output: Path) -> dict[str, Any]:
    """Generate the corpus in `folder` and return the configuration that runs on it."""
    from pipeline.demo import corpus

    corpus.write(folder / "demo.jsonl", rows)
    return {
        "input": [{"path": str(folder / "demo.jsonl")}],
        "output": str(output),
        "embedder": {"model": "lexical"},
        "scorer": {"model": str(MODEL), "template": "plain", "max_length": 512},
        "select": {"budget": {"token_fraction": 0.15}},
    }
