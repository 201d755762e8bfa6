"""Where rows are scored: groups that share pairs stand together, unless they are so large that they would be a block alone."""

import re

import numpy as np
from conftest import write_jsonl
from small_runs import corpus, manifest_of, run

from pipeline.retrieval import blocks, place


def test_rows_of_one_input_and_output_stand_together_up_to_a_size(monkeypatch):
    monkeypatch.setattr(place, "GROUP_ROWS", 3)
    keys = np.array([7, 7, 7, 9, 9, 9, 9], dtype=np.uint64) << np.uint64(40)
    ids, instructions = np.array(list("cabdefg")), np.array([0, 1, 2, 0, 1, 2, 2])
    stretches = np.array([[0, 100], [100, 200], [200, 300]])
    found = place._places(keys, ids, stretches[instructions])
    assert found[:3].tolist() == [found[1]] * 3 and 100 <= found[1] < 200  # `a` is the first by id
    assert (found[3:] // 100).tolist() == [0, 1, 2, 2]


def test_stored_pairs_are_found_also_where_a_block_has_no_rows(ray_session, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 4096)
    rows = corpus(60)
    path = write_jsonl(tmp_path / "rows.jsonl", rows + [rows[0]] * 120)
    first = run(tmp_path / "out", [path], model_folder)
    names = {folder.name for folder in (tmp_path / "out" / "likelihoods").glob("*/*/block-*")}
    numbers = sorted(int(re.sub(r"\D", "", name)) for name in names)
    assert numbers != list(range(len(numbers)))  # there is a gap
    again = run(tmp_path / "out", [path], model_folder, seed=1)
    assert manifest_of(first)["pairs"]["computed"] > 0
    assert manifest_of(again)["pairs"]["computed"] == 0
