"""How scoring scales with the number of scorers, on a cluster whose scorers sleep instead of computing.

    python tests/benchmarks/scaling.py --output FOLDER [--actors 1 4 16 64] [--seconds 15] [--blocks 4]

Everything is the pipeline's but the model: tasks encode blocks on a node without GPUs, actors of one (counted) GPU each cut
batches, store pairs and write parts; a batch sleeps for what its tokens cost a model of the shape of Qwen2.5-0.5B, which is
measured here first. Blocks are cut so that one takes about `--seconds`, and there are `--blocks` of them for each scorer, so
that twice the scorers have twice the work.

Linear is: of the time in which all scorers are up and have work, all is spent in the model. Then what the rest costs a block is
measured with scorers that do not sleep: it says how many scorers the other stages can feed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray
from ray.cluster_utils import Cluster

from operators.scoring.batching import Sequences, packed_batches
from pipeline import demo, read_config
from pipeline.demo import corpus
from pipeline.engine.job import Job
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import pools
from pipeline.engine.session import session
from pipeline.preflight import check_models, read_template
from pipeline.reading.admit import admit
from pipeline.reading.chunks import plan
from pipeline.retrieval import blocks as scoring_blocks
from pipeline.retrieval import place
from pipeline.retrieval.embeddings import embed_instructions
from pipeline.retrieval.instructions import collect_instructions
from pipeline.retrieval.neighbours import find_neighbours
from pipeline.retrieval.offers import offer
from pipeline.runs import workspace
from pipeline.scoring import encode, rounds
from pipeline.scoring import score_block as score_module
from pipeline.storage import lock
from pipeline.storage.records import Block, to_json

SHAPE = {  # of Qwen2.5-0.5B
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def seconds_per_token() -> float:
    """Of a batch of 512 tokens through a random model of SHAPE on this machine's cores, in float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from operators.scoring.scorer import TargetScorer

    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).eval().requires_grad_(False)
    scorer = TargetScorer(model, 4096)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 150000, 56).tolist() for _ in range(8)]
    targets = [rng.integers(0, 150000, 8).tolist() for _ in range(8)]
    found = []
    for _ in range(3):
        before, began = scorer.forwarded_tokens, time.perf_counter()
        scorer.sums(prompts, targets)
        found.append((time.perf_counter() - began) / (scorer.forwarded_tokens - before))
    print(f"measured     {min(found) * 1e3:.2f} ms a token, {torch.get_num_threads()} threads", flush=True)
    return min(found)


def simulated(seconds: float, log: Path) -> type:
    """A ScoreBlock whose model sleeps `seconds` for each token, and tells in `log` when it did."""
    folder = str(log)

    class Sleeping:
        """Stands for a TargetScorer."""

        device, batch_tokens = SimpleNamespace(type="cpu"), 4096

        def __init__(self):
            self.forwarded_tokens = self.padding_tokens = 0

        def works(self):
            return True

        def sums(self, prompts, targets, *, finished, keep, every):
            began, tokens = time.time(), 0
            for batch in packed_batches(Sequences.of(prompts, targets), self.batch_tokens):
                time.sleep(seconds * batch.ids.size)
                tokens += batch.ids.size
            self.forwarded_tokens += tokens
            sums = -np.array([len(target) for target in targets], dtype=np.float64)
            keep(np.arange(len(targets)), sums)
            found = {"began": began, "ended": time.time(), "tokens": tokens, "cpu": time.process_time()}
            path = Path(folder) / f"{ray.get_runtime_context().get_actor_id()}.jsonl"
            with path.open("a") as file:
                file.write(json.dumps(found) + "\n")
            return sums

    class ScoreBlock:
        """The worker's own actor, with that for a model."""

        def __init__(self, **settings):
            from pipeline.scoring.score_block import ScoreBlock

            changes = {"_load": lambda self: Sleeping(), "_context": [0]}
            self._actor = type("Simulated", (ScoreBlock,), changes)(**settings)

        def __call__(self, batch):
            return self._actor(batch)

    return ScoreBlock


def utilisation(log: Path) -> tuple[int, float, float, float]:
    """Scorers; their share of time in the model while all had work, and the seconds of that; CPU seconds of a scorer's process
    for each block after its first."""
    actors = [[json.loads(line) for line in path.read_text().splitlines()] for path in log.glob("*.jsonl")]
    start = max(blocks[0]["began"] for blocks in actors)
    end = min(blocks[-1]["ended"] for blocks in actors)
    inside = [max(0.0, min(one["ended"], end) - max(one["began"], start)) for blocks in actors for one in blocks]
    cpu = [(blocks[-1]["cpu"] - blocks[0]["cpu"]) / (len(blocks) - 1) for blocks in actors if len(blocks) > 1]
    return len(actors), sum(inside) / max(1e-9, len(actors) * (end - start)), end - start, float(np.mean(cpu or [0]))


def main() -> None:
    """Measure, place, then a stage of scoring for each number of scorers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--blocks", type=int, default=4)
    options = parser.parse_args()
    cost, most = seconds_per_token(), max(options.actors)
    rows_a_block = max(4, int(options.seconds / cost / 85))  # a row of the demo's forwards about so many tokens
    rows = rows_a_block * options.blocks * most * 11 // 10
    options.output.mkdir(parents=True, exist_ok=True)
    corpus.write(options.output / "rows.jsonl", rows)
    scoring_blocks.BLOCK_TOKENS = rows_a_block * 19 * 9
    wanted = read_config.validate(demo.settings(options.output / "rows.jsonl", options.output / "out"), "benchmark")

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 300 << 20})
    cluster.add_node(num_cpus=most, num_gpus=most, object_store_memory=300 << 20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    checked = check_models(wanted, read_template(wanted.scorer.template))
    with (
        lock.hold(str(options.output / "out"), "scaling") as held,
        session(None),
        workspace.open_workspace(str(options.output / "out"), held, "scaling") as own,
    ):
        job = Job(wanted, own.folder, own.run_id, pools(wanted), Reporter())
        read = admit(job, plan(wanted), checked.encoder)
        admitted = [part for record in read for part in record.admitted]
        embeddings = str(options.output / "out" / "embeddings" / "scaling")
        table = collect_instructions(job, admitted, None, checked.encoder["max_length"])
        embed_instructions(job, table.shards, embeddings, checked.embedder_version)
        find_neighbours(job, table)
        placed = place.place(job, admitted, table)
        offers = offer(job, placed, table.shards)
        blocks = [Block(block.block, block.part, offers[block.block], block.duplicates) for block in placed]
        print(f"placed       {len(blocks)} blocks of about {rows_a_block} rows", flush=True)
        for number, actors in enumerate([*options.actors, 1]):
            sleeping = number < len(options.actors)
            log = options.output / f"log-{number}"
            log.mkdir()
            score_module.ScoreBlock = simulated(cost if sleeping else 0.0, log)
            sizes = replace(job.pools, scorers=(actors, actors), gpus_per_scorer=1.0)
            one = replace(job, pools=sizes, work=f"{own.folder}/{number}", reporter=Reporter(quiet=True))
            (Path(own.folder) / str(number)).mkdir()
            (Path(own.folder) / str(number) / "index").symlink_to(Path(own.folder) / "index")
            taken = blocks[: options.blocks * actors] if sleeping else blocks[:100]
            scorer = rounds.Scorer(checked.encoder, checked.model("float32"), f"{options.output}/likelihoods-{number}")
            began = time.monotonic()
            done = rounds.score_blocks(one, taken, scorer, encode.Round())
            wall = time.monotonic() - began
            up, share, seconds, cpu = utilisation(log)
            pairs = sum(block.work.computed for block in done)
            if sleeping:
                print(
                    f"{actors:>3} scorers  {len(taken)} blocks, {pairs:,} pairs, {wall:.1f} s in all; while all {up} had work "
                    f"({seconds:.1f} s): {share:.3f} of linear; {cpu:.2f} s of CPU a block beside the model",
                    flush=True,
                )
            else:
                print(
                    f"no sleep     {len(taken)} blocks, {pairs:,} pairs, {wall:.1f} s in all; {cpu:.2f} s of CPU a block in "
                    "the scorer's process",
                    flush=True,
                )
        encoding(job, blocks, checked)
    ray.shutdown()
    cluster.shutdown()


def encoding(job: Job, blocks: list[Block], checked: object) -> None:
    """Print what encoding costs a block."""
    import pyarrow as pa

    settings = {
        "work": job.work,
        "index": job.index,
        "encoder": checked.encoder,  # type: ignore[attr-defined]
        "paraphrase_max": job.config.alternatives.paraphrase_max,
        "source": job.config.alternatives.source,
        "k": job.config.alternatives.k,
        "round": vars(encode.Round()),
    }
    spent = []
    for block in blocks[:30]:
        batch = pa.table({"item": [to_json(encode.BlockToScore(block.block, block.placed, block.offers, None, None))]})
        began = time.process_time()
        encode.encode_block(batch, **settings)
        spent.append(time.process_time() - began)
    print(f"encoding     {np.median(spent):.3f} s of CPU a block", flush=True)


if __name__ == "__main__":
    main()
