"""What processes tell Prometheus, and of which run."""

import types

import numpy as np
import pytest

from operators.schema import ENCODED, from_rows
from pipeline.engine import metrics
from pipeline.runs.workspace import open_workspace
from pipeline.scoring import notes, score_block
from pipeline.scoring.encode import BlockToScore
from pipeline.scoring.score_block import ScoreBlock
from pipeline.storage.lock import hold
from pipeline.storage.records import Part

EMPTY = dict.fromkeys(ENCODED.names)


@pytest.fixture
def recorded(monkeypatch):
    """What is counted and shown from now on, as (name, value, tags), whatever Ray there is."""
    calls = []

    def metric(name):
        def tell(value, tags):
            calls.append((name, value, tags))

        return types.SimpleNamespace(inc=tell, set=tell)

    monkeypatch.setattr(metrics, "_metric", metric)
    monkeypatch.setattr(metrics, "_ray_is_up", lambda: True)
    yield calls
    metrics.of_run("")


def test_a_driver_tells_of_the_run_that_it_makes(recorded, tmp_path):
    with hold(str(tmp_path), "a test") as lock, open_workspace(str(tmp_path), lock, "asked") as own:
        metrics.count("tss_rows", 2, outcome="read")
    metrics.show("tss_stage_done", 1, stage="snapshot")
    assert recorded == [
        ("tss_rows", 2, {"outcome": "read", "run": own.run_id}),
        ("tss_stage_done", 1, {"stage": "snapshot", "run": ""}),
    ]


class Shrinking:
    """Stands for a TargetScorer whose device runs out of memory."""

    device, batch_tokens, forwarded_tokens, padding_tokens = types.SimpleNamespace(type="cpu"), 64, 0, 0

    def sums(self, prompts, targets, *, finished, keep, every):
        self.batch_tokens //= 2
        sums = -np.arange(1.0, len(targets) + 1)
        keep(np.arange(len(targets)), sums)
        return sums


def test_a_scorer_tells_of_its_run_and_of_batches_that_become_smaller(recorded, tmp_path, monkeypatch):
    for module in (score_block, notes):  # that ask Ray, which would start
        monkeypatch.setattr(module, "this_actor", lambda: "this")
    monkeypatch.setattr(ScoreBlock, "_load", lambda self: Shrinking())
    monkeypatch.setattr(ScoreBlock, "_context", [0])
    actor = ScoreBlock(
        work=str(tmp_path / "work"),
        kept={"scorer": str(tmp_path / "store"), "run": "of-this-run", "part": "all"},
        every=1.0,
        encoder={},
        model={},
        batch_tokens="auto",
        score={"hardest": 1, "tau": 1.0, "alpha": 0.0, "weight_scale": 1.0, "weight_clip": 10.0},
        seed=0,
        threshold=None,
        share={"a_node": 1, "gpus": 0},
    )
    alternative = {"instruction": "Count.", "origin": "retrieved", "similarity": 0.5, "prompt": [2]}
    row = {
        "id": "0a" * 16,
        "output": "x",
        "pair_key": b"k" * 16,
        "prompt": [1],
        "target": [3],
        "alternatives": [alternative],
    }
    block = BlockToScore(0, Part("placed", 1, 0, ""), Part("offers", 1, 0, ""), None, None)
    actor._block(block, from_rows([{**EMPTY, **row}], ENCODED))
    assert {tags["run"] for _, _, tags in recorded} == {"of-this-run"}
    assert [value for name, value, _ in recorded if name == "tss_scorer_batch_tokens"] == [64, 32]
    assert ("tss_pairs", 3, {"source": "computed", "run": "of-this-run"}) in recorded
