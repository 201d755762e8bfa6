"""An example of each command, which its --help ends with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

EXAMPLES = {
    "init": "tss init data/alpaca.jsonl --model Qwen/Qwen2.5-0.5B > config.yaml",
    "run": "tss run config.yaml\n  tss run data/alpaca.jsonl --model Qwen/Qwen2.5-0.5B --budget 5% --output runs/mine\n"
    "  tss run config.yaml --dry-run",
    "plan": "tss plan config.yaml --budget 10%",
    "refresh": "tss refresh config.yaml\n  tss refresh config.yaml --exit-code   # 0: rows entered or left; 3: none did",
    "select": 'tss select runs/mine --budget 20k --set "select.where=\'ppl < 200\'" --label "no outliers"\n'
    "  tss select runs/mine --budget 10% --dry-run",
    "runs": "tss runs runs/mine",
    "use": "tss use runs/mine 20261130T025819-ba15d2",
    "store": "tss store stats runs/mine",
    "demo": "tss demo --rows 500 --output runs/small",
    "report": "tss report runs/mine",
    "explain": "tss explain runs/mine data/alpaca.jsonl:12",
    "compare": "tss compare runs/mine/runs/20261130T025819-ba15d2 runs/mine",
    "export": "tss export runs/mine --to messages",
    "push": "tss push runs/mine owner/name",
    "completion": "tss completion bash   # in ~/.bashrc: source <(tss completion bash)",
    "submit": "tss submit --address http://head:8265 run /shared/config.yaml",
}


def add_examples(verbs: Mapping[str, argparse.ArgumentParser]) -> None:
    """End the help of each verb with its example."""
    for name, verb in verbs.items():
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.epilog = f"example:\n  {EXAMPLES[name]}" if name in EXAMPLES else None
