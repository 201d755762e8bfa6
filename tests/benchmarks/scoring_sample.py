"""What the scoring benchmark scores: pairs of a real corpus as the pipeline makes them, and models of a given shape.

    python tests/benchmarks/scoring_sample.py JOB.json     # started by scoring.py, in a process of its own

The whole corpus goes through the pipeline's own stages up to placement, so alternatives come from the whole file and rows
stand as they do when they are scored. From the start of a middle block a contiguous run of rows is taken, and the pairs
are those that `score_rows` hands to the scorer for these rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.alternatives import Query
from operators.likelihoods import Candidates, score_rows

_SHARED_SHAPE = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "intermediate_size": 1024,
    "num_attention_heads": 6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,  # wide enough that the distributions are far from flat
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


class Recorder:
    """Stands in for the scorer: keeps the pairs that it is given and answers each with its number."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.targets: list[list[int]] = []
        self.forwarded_tokens = 0

    def sums(self, prompts: list[list[int]], targets: list[list[int]]) -> np.ndarray:
        """Float64 [N]: the place of each pair among all pairs recorded so far."""
        start = len(self.prompts)
        self.prompts += [list(map(int, ids)) for ids in prompts]
        self.targets += [list(map(int, ids)) for ids in targets]
        return np.arange(start, len(self.prompts), dtype=np.float64)


def make_model(folder: Path, shape: str, base: Path) -> None:
    """Save a float32 model of this shape with the tokenizer of `base`: random weights from one seed, or `base` itself."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from operators.models import load_model

    torch.manual_seed(0)
    if shape == "20m":
        model = LlamaForCausalLM(LlamaConfig(vocab_size=16_384, **_SHARED_SHAPE))
    elif shape == "70m":
        model = Qwen2ForCausalLM(Qwen2Config(vocab_size=151_936, num_key_value_heads=2, **_SHARED_SHAPE))
    else:
        model = load_model(str(base), dtype="float32", device="cpu")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    model.save_pretrained(folder, safe_serialization=True)


def place_corpus(folder: Path, job: dict[str, Any]) -> None:
    """Run the pipeline's stages up to placement; `placed.json`, written last, says where the blocks are."""
    from pipeline import stages
    from pipeline.config import validate
    from pipeline.job import Job
    from pipeline.preflight import check_models
    from pipeline.progress import Reporter
    from pipeline.resources import pools, session
    from pipeline.sources import plan

    settings = {
        "input": job["corpus"],
        "output": str(folder),
        "embedder": {"model": job["embedder"]},
        "alternatives": {"k": job["k"]},
        "scorer": {"model": job["base"], "template": job["template"]},
    }
    config = validate(settings, "the benchmark's configuration")
    chunks, checked = plan(config), check_models(config)
    with session(None):
        run = Job(config, str(folder), pools(config), Reporter())
        admitted = [part for record in stages.read(run, chunks, checked) for part in record["admitted"]]
        index = stages.retrieve_alternatives(run, admitted, None)
        placed = stages.place_rows(run, admitted, index["tokens"])
        found = {"placed": placed, "encoder": checked.encoder, "pool": stages.pool_settings(run)}
    (folder / "placed.json").write_text(json.dumps(found))


def take_sample(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Rows from the start of the middle block on, until there are `rows` rows or `tokens` tokens of distinct pairs.

    `calls`: prompts and targets as the pipeline hands them to the scorer, a call for each block. `rows`: for each row the
    places of its pairs among those of all calls, [l(0), l(I), l(I_1) .. l(I_K)]. `texts`: the same rows as text.
    """
    from pipeline.admit import cached_encoder
    from pipeline.parts import read_part
    from pipeline.retrieve import cached_pool

    found = json.loads((folder / "placed.json").read_text())
    encoder, pool = cached_encoder(**found["encoder"]), cached_pool(**found["pool"])
    neighbours = pq.read_table(Path(found["pool"]["index"]) / "neighbours.parquet")
    placed = sorted(found["placed"], key=lambda part: part["block"])
    calls, places, texts, tokens = [], [], [], 0
    for part in placed[len(placed) // 2 :]:
        block = read_part(part)
        block = block.filter(pc.invert(block["duplicate"]))

        def record(rows: pa.Table) -> tuple[Recorder, list[list[int]]]:
            recorder = Recorder()
            table, _ = score_rows(rows, _candidates(rows, neighbours), pool, encoder, recorder, job["k"])
            return recorder, _places(table, recorder)

        recorder, rows = record(block)
        wanted = job["rows"] - len(places) if job["rows"] else _rows_for(rows, recorder, job["tokens"] - tokens)
        if wanted < len(rows):
            block = block.slice(0, wanted)
            recorder, rows = record(block)  # the pairs of these rows alone
        before = sum(len(call["prompts"]) for call in calls)
        calls.append({"prompts": recorder.prompts, "targets": recorder.targets})
        places += [[before + place for place in row] for row in rows]
        texts += [_text(row, encoder) for row in block.to_pylist()]
        tokens += sum(map(len, recorder.prompts)) + sum(map(len, recorder.targets))
        if len(places) >= job["rows"] if job["rows"] else tokens >= job["tokens"]:
            break
    first = placed[len(placed) // 2]["block"]
    return {
        "calls": calls,
        "rows": places,
        "texts": texts,
        "vocabulary": len(encoder.tokenizer),
        "blocks": [first, len(calls), len(placed)],
    }


def _candidates(rows: pa.Table, neighbours: pa.Table) -> list[Candidates]:
    found = []
    for row in neighbours.take(rows["query_row"].combine_chunks()).to_pylist():
        query = Query(row["instruction_row"], row["has_input"], row["task"])
        found.append(
            Candidates(query, row["candidates"], row["similarities"], row["complete"], row["paraphrases_skipped"])
        )
    return found


def _places(likelihoods: pa.Table, recorder: Recorder) -> list[list[int]]:
    """The recorder's numbers, read back from likelihoods: a mean times the target's length is the number of its pair."""
    places = []
    for row in likelihoods.to_pylist():
        length = row["n_target_tokens"]
        means = [row["loglik_empty_mean"], row["loglik_mean"], *(one["loglik_mean"] for one in row["alternatives"])]
        found = [round(mean * length) for mean in means]
        if len({tuple(recorder.targets[place]) for place in found}) != 1 or found[1] != round(row["loglik_sum"]):
            raise RuntimeError("the pairs of a row could not be told from its likelihoods")
        places.append(found)
    return places


def _rows_for(rows: list[list[int]], recorder: Recorder, tokens: int) -> int:
    """How many rows from the first on have pairs of `tokens` tokens together, each pair counted once."""
    seen: set[int] = set()
    for number, row in enumerate(rows):
        if tokens <= 0:
            return number
        tokens -= sum(len(recorder.prompts[i]) + len(recorder.targets[i]) for i in set(row) - seen)
        seen.update(row)
    return len(rows)


def _text(row: dict, encoder: Any) -> dict[str, str]:
    return {
        "prompt": encoder.template.render(row["instruction"], row["input"][: row["input_chars"]]),
        "output": row["output"],
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model, corpus, sample = Path(job["model"]), Path(job["folder"]), Path(job["sample"])
    if not (model / "model.safetensors").is_file():
        make_model(model, job["shape"], Path(job["base"]))
    if not (corpus / "placed.json").is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        place_corpus(corpus, job)
    if not sample.is_file():
        text = json.dumps(take_sample(corpus, job))
        sample.parent.mkdir(parents=True, exist_ok=True)
        sample.write_text(text)


if __name__ == "__main__":
    main()
