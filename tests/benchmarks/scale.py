"""Corpora of as many distinct instructions as rows: what retrieval, and a whole run without a model, cost at that size.

    python tests/benchmarks/scale.py neighbours --rows 10000 100000 1000000 --output FOLDER [--exact]
    python tests/benchmarks/scale.py run --rows 100000 --output FOLDER [--embedder lexical]

`neighbours`: distinct vectors of 384 numbers with cluster structure (topics of Zipf sizes, each of subtopics, each of near
copies) stand for embeddings; the pipeline's own stages find the alternatives of all. Recall is then measured apart: exact
neighbours of random queries in plain numpy, against what was written.

`run`: a corpus of generated texts with the same structure in words goes through the whole pipeline; only the model is left out:
a likelihood is a hash of a pair's ids. Everything else is real: reading, templates, tokens, embeddings, neighbours, places, the
store, scores, selection, publishing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from watched import watch

from operators.retrieval.instruction_table import distinct_instructions, instruction_key
from pipeline import demo, flow, read_config
from pipeline.engine.job import Job
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import pools
from pipeline.engine.session import session
from pipeline.retrieval import instructions
from pipeline.retrieval.instructions import InstructionTable
from pipeline.retrieval.neighbours import find_neighbours
from pipeline.retrieval.shards import Shards, embeddings_path, instructions_path, queries_path, shards_of_keys
from pipeline.scoring import score_block as score_module
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import write_table

DIMENSIONS, K = 384, 8


def planted(count: int, seed: int = 0) -> np.ndarray:
    """Float32 [N, 384], unit: topics of Zipf sizes, subtopics in them, and members about these."""
    rng = np.random.default_rng(seed)
    topics = max(4, count // 2000)
    of_topic = rng.choice(topics, count, p=(weights := 1 / np.arange(1, topics + 1) ** 0.7) / weights.sum())
    centres = rng.normal(size=(topics, DIMENSIONS)).astype(np.float32)
    within = rng.normal(size=(topics * 16, DIMENSIONS)).astype(np.float32)
    vectors = np.empty((count, DIMENSIONS), dtype=np.float32)
    for start in range(0, count, 50_000):
        part = of_topic[start : start + 50_000]
        noise = rng.normal(size=(len(part), DIMENSIONS)).astype(np.float32)
        subtopic = part * 16 + rng.integers(0, 16, len(part))
        points = centres[part] + 0.7 * within[subtopic] + 0.9 * noise
        vectors[start : start + len(part)] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return vectors


def write_index(index: str, vectors: np.ndarray) -> InstructionTable:
    """A table of instructions as `collect_instructions` writes it, with these embeddings."""
    texts = np.array([f"Do what is said in line {i} of the list." for i in range(len(vectors))])
    keys = np.array([instruction_key(text) for text in texts], dtype=object)
    order = np.argsort(keys)
    count = -(-len(vectors) // instructions.SHARD_ROWS)
    shard = shards_of_keys(pa.array(keys[order], pa.binary(16)), count)
    sizes = np.bincount(shard, minlength=count).tolist()
    tokens = 0
    for number in range(count):
        mine = order[shard == number]
        columns = {
            "instruction_key": pa.array(keys[mine], pa.binary(16)),
            "instruction": texts[mine].tolist(),
            "input": [""] * len(mine),
            "task": pa.array([None] * len(mine), pa.string()),
            "n_prompt_tokens": [60] * len(mine),
            "n_target_tokens": [40] * len(mine),
        }
        table = distinct_instructions(pa.table(columns), 2048)
        tokens += int(table["tokens"].to_numpy().sum())
        write_table(instructions_path(index, number), table)
        save_array(embeddings_path(index, number), vectors[mine])
    return InstructionTable(Shards(index, sizes), len(vectors), tokens)


def recall_apart(table: InstructionTable, queries: int, seed: int = 1) -> tuple[float, float]:
    """Mean recall at K of random queries against plain numpy, and the half of its 95% interval."""
    shards = table.shards
    vectors = np.concatenate([load_array(embeddings_path(shards.index, shard)) for shard in shards.used()])
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), queries, replace=False))
    given = {}
    for shard in shards.used():
        known = pq.read_table(queries_path(shards.index, shard), columns=["instruction_row", "candidates"])
        mine = known.filter(pa.array(np.isin(known["instruction_row"].to_numpy(), rows)))
        given.update(zip(mine["instruction_row"].to_pylist(), mine["candidates"].to_pylist(), strict=True))
    shares = []
    for start in range(0, queries, 64):
        asked = rows[start : start + 64]
        similar = vectors[asked] @ vectors.T
        similar[np.arange(len(asked)), asked] = -1
        similar[similar >= 0.95] = -1  # paraphrases
        nearest = np.argpartition(-similar, K, axis=1)[:, :K]
        shares += [
            len({*near} & {*given[row][:K]}) / K for row, near in zip(asked.tolist(), nearest.tolist(), strict=True)
        ]
    return float(np.mean(shares)), float(1.96 * np.std(shares) / np.sqrt(queries))


def job_in(folder: Path, **changes: object) -> Job:
    """A run under way in a folder."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    config = read_config.validate(
        read_config.override(
            demo.settings(folder / "rows.jsonl", folder / "out"),
            [f"{key}={json.dumps(value)}" for key, value in changes.items()],
        ),
        "benchmark",
    )
    return Job(config, str(folder / "work"), "scale", pools(config), Reporter())


def neighbours(options: argparse.Namespace) -> None:
    """Print what the neighbours of tables of several sizes cost."""
    spent = []
    with session(None):
        for rows in options.rows:
            folder = options.output / f"neighbours-{rows}"
            shutil.rmtree(folder, ignore_errors=True)
            changes = {"alternatives.exact_below": 10**9 if options.exact else options.exact_below}
            job = job_in(folder, **changes)
            table = write_index(job.index, planted(rows))
            with watch() as watched:
                retrieval = find_neighbours(job, table)
            recall, half = recall_apart(table, min(rows, 1000))
            print(
                f"{rows:>9,} instructions  {watched}; {retrieval}; recall apart {recall:.4f} +- {half:.4f}", flush=True
            )
            spent.append((rows, watched.core_minutes))
            shutil.rmtree(folder)
    for (fewer, cost), (more, costs) in pairwise(spent):
        print(f"from {fewer:,} to {more:,}: n^{np.log(costs / cost) / np.log(more / fewer):.2f}", flush=True)


class ScoreBlock:
    """The worker's own actor with a likelihood that is a hash of a pair's ids for a model."""

    def __init__(self, **settings):
        from pipeline.scoring.score_block import ScoreBlock

        changes = {"_load": lambda self: _Hashing(), "_context": [0]}
        self._actor = type("Hashed", (ScoreBlock,), changes)(**settings)

    def __call__(self, batch):
        return self._actor(batch)


class _Hashing:
    """Stands for a TargetScorer."""

    device, batch_tokens = SimpleNamespace(type="cpu"), 4096

    def __init__(self):
        self.forwarded_tokens = self.padding_tokens = 0

    def works(self):
        return True

    def sums(self, prompts, targets, *, finished, keep, every):
        self.forwarded_tokens += sum(map(len, prompts)) + sum(map(len, targets))
        pairs = zip(prompts, targets, strict=True)
        codes = [zlib.crc32(np.concatenate(pair).astype(np.int32).tobytes()) for pair in pairs]
        lengths = np.array([len(target) for target in targets])
        sums = -lengths * (0.5 + np.array(codes) % 1000 / 250)
        keep(np.arange(len(targets)), sums)
        return sums


def write_corpus(path: Path, rows: int, seed: int = 0) -> None:
    """Rows with as many distinct instructions: the phrase of one of a topic's 16 subtopics, and words of the topic; topics have
    Zipf sizes, as in `planted`."""
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
    words = np.array(["".join(rng.choice(syllables, 3)) for _ in range(60_000)])
    topics = max(20, rows // 2000)
    of_topic = rng.choice(topics, rows, p=(weights := 1 / np.arange(1, topics + 1) ** 0.7) / weights.sum())
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            topic, subtopic = int(of_topic[row]), int(rng.integers(0, 16))
            own = words[(topic * 37 + rng.integers(0, 40, 7)) % len(words)]
            phrase = words[(topic * 101 + subtopic * 7 + np.arange(4)) % len(words)]
            instruction = (
                f"{phrase[0].title()} the {phrase[1]} of {own[0]} and {' '.join(phrase[2:])} {own[1]} {own[2]} {row:x}."
            )
            example = {
                "instruction": instruction,
                "input": " ".join(own[3:]) if row % 3 else "",
                "output": " ".join(rng.choice(words, 12)),
            }
            file.write(json.dumps(example) + "\n")


def run(options: argparse.Namespace) -> None:
    """Print what whole runs cost, by stage."""
    score_module.ScoreBlock = ScoreBlock
    for rows in options.rows:
        folder = options.output / f"run-{rows}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_corpus(folder / "rows.jsonl", rows)
        config = read_config.validate(
            read_config.override(
                demo.settings(folder / "rows.jsonl", folder / "out"),
                [f'embedder.model="{options.embedder}"', f"alternatives.exact_below={options.exact_below}"],
            ),
            "benchmark",
        )
        began = time.monotonic()
        with session(None), watch() as watched:
            summary = flow.run(config, Reporter())
        manifest = json.loads((Path(summary.run) / "manifest.json").read_text())
        print(f"{rows:>9,} rows  {time.monotonic() - began:.0f} s in all; {watched}", flush=True)
        print(f"           retrieval {manifest['retrieval']}; pairs {manifest['pairs']}", flush=True)
        stages = sorted(manifest["timings"].items(), key=lambda item: -item[1])
        print("           " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages), flush=True)
        if not options.keep:
            shutil.rmtree(folder)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["neighbours", "run"])
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--exact", action="store_true", help="search without an index")
    parser.add_argument("--exact-below", type=int, default=100_000)
    parser.add_argument("--embedder", default="lexical")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    {"neighbours": neighbours, "run": run}[options.what](options)


if __name__ == "__main__":
    main()
