"""SIGKILL to an actor, then to all of Ray, as when a machine is switched off: what is published is what no kill would give."""

import json
import random
from pathlib import Path

from conftest import write_jsonl
from killed_runs import ROOT, Started, differences, parts_of, published, stored_pairs, switch_off
from small_runs import corpus, settings

from pipeline import flow
from pipeline.engine.progress import Reporter
from pipeline.retrieval import blocks


def test_a_run_that_is_killed_twice_goes_on_to_the_same_end(ray_session, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(80))
    small = {"scorer__batch_tokens": 200, "store__write_every": 0, "alternatives__k": 8}
    whole = flow.run(settings(tmp_path / "whole", [path], model_folder, **small), Reporter(quiet=True))
    output, config = tmp_path / "out", tmp_path / "config.yaml"
    wanted = settings(output, [path], model_folder, **small)
    config.write_text(json.dumps(wanted.model_dump()))
    rng, go = random.Random(0), tmp_path / "go"
    held_back = (str(ROOT / "tests" / "held_back.py"), str(blocks.BLOCK_TOKENS), "5", str(go))
    started = Started(config, "--quiet", script=held_back)
    for parts, kind in ((5, "actor"), (6, "power")):  # the actor that comes after the one that died goes on
        assert started.wait_for(lambda parts=parts: len(parts_of(output)) >= parts), config.with_suffix(
            ".log"
        ).read_text()
        assert started.kill(kind, rng, grace=0)
        assert not (output / "latest.json").exists()
    switch_off(output)
    stored = len(parts_of(output)) - 1
    done = flow.run(wanted, Reporter(quiet=True))
    assert len(parts_of(output)) > stored and differences(Path(done.run), Path(whole.run)) == []
    assert stored_pairs(output)[0] == stored_pairs(output)[1] == stored_pairs(tmp_path / "whole")[1]
    assert json.loads((published(output) / "manifest.json").read_text())["pairs"]["resumed"] > 0
