"""Tables of instructions in shards, and inverted files: the same alternatives as one table that is searched whole."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from conftest import write_jsonl
from small_runs import corpus, manifest_of, run, table

from operators.retrieval import gpu_tiles
from operators.retrieval.instruction_table import distinct_instructions, instruction_key
from operators.retrieval.tiles import HOST
from operators.scoring.models import NoGpu
from pipeline.engine import job
from pipeline.retrieval import blocks, exact, instructions, lists, neighbours, probes
from pipeline.retrieval.instructions import DistinctPart
from pipeline.retrieval.shards import Shards, shards_of_keys
from pipeline.runs import open_run
from pipeline.runs.summary import summarise
from pipeline.storage.records import Part

pytestmark = pytest.mark.ray
TEXT = [
    f"{verb} {what} number {i}" for i in range(40) for verb in ("Sort", "Count") for what in ("the words", "a list")
]


def rows_with_many_instructions():
    return [{**row, "instruction": TEXT[i % len(TEXT)]} for i, row in enumerate(corpus(400))]


@pytest.fixture(scope="module")
def whole(ray_session, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = write_jsonl(folder / "rows.jsonl", rows_with_many_instructions())
    return path, run(folder / "out", [path], model_folder)


def outcome(folder):
    by_id = {row["id"]: row for row in table(folder, "scored")}
    kept = ("loglik_sum", "tss_pp", "paraphrases_skipped", "alternatives", "n_alternatives")
    return {id: {name: row[name] for name in kept} for id, row in by_id.items()}


def same(one, other, tolerance=1e-4):
    assert one.keys() == other.keys()
    for id, row in one.items():
        twin = other[id]
        texts = [[choice["instruction"] for choice in each["alternatives"]] for each in (row, twin)]
        assert texts[0] == texts[1] and row["paraphrases_skipped"] == twin["paraphrases_skipped"]
        similar = [[choice["similarity"] for choice in each["alternatives"]] for each in (row, twin)]
        assert np.allclose(*similar, atol=1e-6)
        assert abs(row["tss_pp"] - twin["tss_pp"]) < tolerance


def test_several_shards_are_as_one(whole, ray_session, model_folder, tmp_path, monkeypatch):
    path, before = whole
    monkeypatch.setattr(instructions, "SHARD_ROWS", 30)
    monkeypatch.setattr(lists, "GROUP_ROWS", 25)
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 1 << 15)
    done = run(tmp_path / "out", [path], model_folder)
    same(outcome(before), outcome(done))
    manifest = manifest_of(done)
    assert manifest["instructions"] == len(set(TEXT)) == manifest_of(before)["instructions"]
    assert manifest["retrieval"]["kind"] == "exact"
    clusters = [{row["instruction"]: row["cluster"] for row in table(folder, "scored")} for folder in (before, done)]
    assert len(set(clusters[0].values())) == len(set(clusters[1].values()))
    # Stored embeddings are recalled shard by shard, and the store is used whatever the shards are.
    again = run(tmp_path / "out", [path], model_folder, seed=1)
    assert manifest_of(again)["pairs"]["computed"] == 0


def test_an_inverted_file_gives_what_its_recall_says(whole, ray_session, model_folder, tmp_path, monkeypatch):
    path, before = whole
    monkeypatch.setattr(instructions, "SHARD_ROWS", 50)
    monkeypatch.setattr(lists, "GROUP_ROWS", 40)
    asked = {"alternatives__exact_below": 0, "alternatives__probes": 1, "alternatives__min_recall": 0.9}
    done = run(tmp_path / "out", [path], model_folder, **asked)
    retrieval = manifest_of(done)["retrieval"]
    assert retrieval["kind"] == "lists" and retrieval["lists"] >= 20 and 1 < retrieval["probes"] <= retrieval["lists"]
    assert 0.9 <= retrieval["low"] <= retrieval["recall"] <= retrieval["high"] <= 1
    assert f"neighbours from {retrieval['probes']} of {retrieval['lists']} lists, recall 0.9" in summarise(
        open_run.read_manifest(str(done)), str(done)
    ).text.replace("recall 1.0", "recall 0.9")
    exact, given = outcome(before), outcome(done)
    shares = [
        len({a["instruction"] for a in row["alternatives"]} & {a["instruction"] for a in given[id]["alternatives"]})
        / len(row["alternatives"])
        for id, row in exact.items()
    ]
    assert np.mean(shares) > 0.85  # the sample is of instructions, and this of rows
    assert all(row["n_alternatives"] == 3 for row in given.values())


def test_all_lists_are_as_no_lists(whole, ray_session, model_folder, tmp_path, monkeypatch):
    path, before = whole
    monkeypatch.setattr(probes, "_LADDER", 1)
    asked = {"alternatives__exact_below": 0, "alternatives__probes": 1000}
    done = run(tmp_path / "out", [path], model_folder, **asked)
    retrieval = manifest_of(done)["retrieval"]
    assert retrieval["kind"] == "lists" and retrieval["probes"] == retrieval["lists"] and retrieval["recall"] == 1
    same(outcome(before), outcome(done))


def test_a_search_on_a_gpu_finds_the_same(whole, ray_session, model_folder, tmp_path, monkeypatch):
    """On a GPU that is a CPU: the tasks are told that they have some of it."""
    path, before = whole
    counted = {"runtime_env": {"env_vars": {"TSS_COUNTED_GPUS": "1"}}}
    monkeypatch.setattr(job, "_placed_on", lambda gpus: dict(counted) if gpus else {})
    for module in (neighbours, lists):
        monkeypatch.setattr(module, "gpus_of_search", lambda job, instructions: 0.25)
    monkeypatch.setattr(instructions, "SHARD_ROWS", 50)
    done = run(tmp_path / "out", [path], model_folder)
    assert manifest_of(done)["retrieval"]["kind"] == "exact"
    same(outcome(before), outcome(done))


def test_a_worker_with_a_gpu_computes_there(monkeypatch):
    exact._tiles_on_gpu.cache_clear()
    with pytest.raises(NoGpu):
        exact.tiles_here(0.25)
    monkeypatch.setenv("TSS_COUNTED_GPUS", "1")
    assert exact.tiles_here(0.0) is HOST is not exact.tiles_here(0.25)
    exact._tiles_on_gpu.cache_clear()
    monkeypatch.setattr(gpu_tiles, "exact_enough", lambda tiles: False)
    assert exact.tiles_here(0.25) is HOST
    exact._tiles_on_gpu.cache_clear()


@pytest.mark.parametrize(
    ("instructions", "share", "free", "given"),
    [
        (50_000, 0.25, {"GPU": 2.0, "CPU": 24.0}, 0.25),
        (49_999, 0.25, {"GPU": 2.0, "CPU": 24.0}, 0.0),  # torch would hardly have begun
        (50_000, 0.25, {"GPU": 2.0, "CPU": 64.0}, 0.0),  # the cores are more than eight places on GPUs
        (50_000, 0.25, {"GPU": 0.2, "CPU": 4.0}, 0.0),  # taken by others
        (50_000, 0.25, {"CPU": 4.0}, 0.0),
        (50_000, 0.0, {"GPU": 2.0, "CPU": 4.0}, 0.0),  # not asked for
    ],
)
def test_gpus_search_where_they_are_free_and_enough(monkeypatch, instructions, share, free, given):
    monkeypatch.setattr(exact.ray, "available_resources", lambda: free)
    asked = SimpleNamespace(pools=SimpleNamespace(gpus_per_search=share))
    assert exact.gpus_of_search(asked, instructions) == given


def test_a_pool_file_is_divided_as_well(ray_session, model_folder, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", rows_with_many_instructions()[:60])
    pool = tmp_path / "pool.txt"
    pool.write_text("\n".join(f"Write line {i} again" for i in range(70)))
    one = run(tmp_path / "one", [path], model_folder, alternatives__pool=str(pool))
    monkeypatch.setattr(instructions, "SHARD_ROWS", 30)
    many = run(tmp_path / "many", [path], model_folder, alternatives__pool=str(pool))
    same(outcome(one), outcome(many))
    assert manifest_of(many)["pool"] == 70 and {
        choice["instruction"][:10] for row in outcome(many).values() for choice in row["alternatives"]
    } == {"Write line"}


def test_keys_are_divided_into_ranges_in_their_order():
    keys = sorted(instruction_key(str(i)) for i in range(500))
    numbers = shards_of_keys(pa.array(keys, pa.binary(16)), 7)
    assert (np.diff(numbers) >= 0).all() and set(numbers.tolist()) == set(range(7))
    assert np.bincount(numbers).max() < 2 * 500 / 7


def test_rows_know_their_shard():
    shards = Shards("index", [3, 0, 2])
    assert shards.of_rows(np.arange(5)).tolist() == [0, 0, 0, 2, 2] and shards.used() == [0, 2]
    assert shards.rows_of(2).tolist() == [3, 4] and shards.rows == 5


@pytest.mark.parametrize("count", [5, 300, 20_000])
def test_how_many_instructions_there_are_is_guessed_from_the_smallest_keys_alone(count):
    def part(start, stop):
        rows = [{"instruction": str(i), "input": "", "task": None} for i in range(start, stop)]
        keys = pa.array([instruction_key(row["instruction"]) for row in rows], pa.binary(16))
        columns = {name: [row[name] for row in rows] for name in ("instruction", "input")}
        counts = {name: [1] * len(rows) for name in ("n_prompt_tokens", "n_target_tokens")}
        task = pa.array([None] * len(rows), pa.string())
        found = distinct_instructions(pa.table({"instruction_key": keys, **columns, "task": task, **counts}), 10)
        smallest = [int.from_bytes(key[:8], "big") / 2.0**64 for key in found["key"][:32].to_pylist()]
        return DistinctPart(Part("", len(found), 0, ""), smallest)

    whole = instructions._estimate([part(0, count)])
    assert whole == instructions._estimate([part(0, count // 2), part(count // 3, count)])
    assert abs(whole / count - 1) < 0.5 and (count > 32 or whole == count)
