"""The Grafana dashboard as data: which metrics its panels ask for."""

import json
import re
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "cluster" / "grafana.json"


def panels() -> list[dict]:
    return json.loads(FILE.read_text())["panels"]


def variables() -> list[dict]:
    return json.loads(FILE.read_text())["templating"]["list"]


def metrics_of(expression: str) -> set[str]:
    """Names of the metrics of a PromQL expression of ours: all of them are Ray's or come through it."""
    return set(re.findall(r"\bray_\w+", expression))


def metrics() -> set[str]:
    return {name for panel in panels() for target in panel["targets"] for name in metrics_of(target["expr"])}
