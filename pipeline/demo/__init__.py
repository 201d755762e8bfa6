"""The embedded default: a generated corpus, and the small scorer in `model/` that has learned its tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL = Path(__file__).parent / "model"


def settings(corpus: Path, output: Path) -> dict[str, Any]:
    """The configuration that runs on a generated corpus."""
    return {
        "input": [{"path": str(corpus)}],
        "output": str(output),
        "embedder": {"model": "lexical"},
        "scorer": {"model": str(MODEL), "template": "plain", "max_length": 512},
        "select": {"budget": {"token_fraction": 0.15}},
    }
