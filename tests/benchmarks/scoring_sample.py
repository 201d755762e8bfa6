"""What the scoring benchmark scores: pairs of a real corpus as the pipeline makes them, and models of a given shape.

    python tests/benchmarks/scoring_sample.py JOB.json     # started by scoring.py, in a process of its own

The whole corpus goes through the pipeline's own stages up to placement, so alternatives come from the whole file and rows
stand as they do when they are scored. From blocks evenly spread over the corpus contiguous runs of rows are taken, with the
distinct pairs that these rows ask for.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from operators.scoring.encode_pairs import encode_rows

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


def make_model(folder: Path, shape: str, base: Path) -> None:
    """Save a float32 model of this shape with the tokenizer of `base`: random weights from one seed, or `base` itself."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from operators.scoring.models import load_model

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
    from pipeline.engine.job import Job
    from pipeline.engine.progress import Reporter
    from pipeline.engine.resources import pools
    from pipeline.engine.session import session
    from pipeline.preflight import check_models, read_template
    from pipeline.read_config import validate
    from pipeline.reading.admit import admit
    from pipeline.reading.chunks import plan
    from pipeline.retrieval.embeddings import embed_instructions
    from pipeline.retrieval.instructions import collect_instructions
    from pipeline.retrieval.neighbours import find_neighbours
    from pipeline.retrieval.offers import offer
    from pipeline.retrieval.place import place

    settings = {
        "input": job["corpus"],
        "output": str(folder),
        "embedder": {"model": job["embedder"]},
        "alternatives": {"k": job["k"]},
        "scorer": {"model": job["base"], "template": job["template"]},
    }
    config = validate(settings, "the benchmark's configuration")
    chunks, checked = plan(config), check_models(config, read_template(config.scorer.template))
    with session(None):
        run = Job(config, str(folder), "sample", pools(config), Reporter())
        admitted = [part for record in admit(run, chunks, checked.encoder) for part in record.admitted]
        table = collect_instructions(run, admitted, None, checked.encoder["max_length"])
        embed_instructions(run, table.shards, str(folder / "embeddings"), checked.embedder_version)
        find_neighbours(run, table)
        placed = place(run, admitted, table)
        offers = {number: asdict(part) for number, part in offer(run, placed, table.shards).items()}
        found = {
            "placed": [asdict(block) for block in placed],
            "offers": offers,
            "encoder": {**checked.encoder, "chosen": None},
        }
    (folder / "placed.json").write_text(json.dumps(found))


def take_sample(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Contiguous rows from the start of `stretches` blocks, evenly spread, until each has its share of `rows` rows or `tokens`
    tokens of distinct pairs (a stretch that reaches the end of its block stops there); where neither is asked for, all rows.

    `calls`: prompts and targets as the pipeline hands them to the scorer, a call for each block. `rows`: for each row the
    places of its pairs among those of all calls, [l(0), l(I), l(I_1) .. l(I_K)]. `texts`: the same rows as text.
    """
    from pipeline.engine.encoder import cached_encoder
    from pipeline.scoring.encode import BlockToScore, Round, candidates_of, offers_of_rows, rows_of_round
    from pipeline.storage.parts import read_table
    from pipeline.storage.records import Part, PlacedBlock, from_json

    found = json.loads((folder / "placed.json").read_text())
    encoder = cached_encoder(**found["encoder"])
    context = list(encoder.context)
    placed = sorted(
        (from_json(PlacedBlock, json.dumps(block)) for block in found["placed"]), key=lambda block: block.block
    )
    asked = job["rows"] or job["tokens"]
    count = min(job["stretches"], len(placed)) if asked else len(placed)
    limit = asked / count if asked else math.inf
    calls, places, texts = [], [], []
    for part in [placed[len(placed) * (2 * i + 1) // (2 * count)] for i in range(count)]:
        offers = Part(**found["offers"][str(part.block)])
        block = rows_of_round(BlockToScore(part.block, part.part, offers, None, None), Round())
        candidates = candidates_of(offers_of_rows(block, read_table(offers.path)))
        encoded = encode_rows(block, candidates, encoder, job["k"]).to_pylist()
        distinct: dict[tuple, int] = {}
        before = sum(len(call["prompts"]) for call in calls)
        taken = 0
        for row, text in zip(encoded, block.to_pylist(), strict=True):
            if taken >= limit:
                break
            own = []
            for prompt in [context, row["prompt"], *(one["prompt"] for one in row["alternatives"])]:
                key = (tuple(prompt), tuple(row["target"]))
                taken += len(prompt) + len(row["target"]) if key not in distinct and not job["rows"] else 0
                own.append(before + distinct.setdefault(key, len(distinct)))
            taken += bool(job["rows"])
            places.append(own)
            texts.append(_text(text, encoder))
        prompts, targets = ([list(pair[side]) for pair in distinct] for side in (0, 1))
        calls.append({"prompts": prompts, "targets": targets})
    return {
        "calls": calls,
        "rows": places,
        "texts": texts,
        "vocabulary": len(encoder.tokenizer),
        "blocks": [len(calls), len(placed)],
    }


def _text(row: dict, encoder: Any) -> dict[str, str]:
    return {
        "prompt": encoder.template.render(row["instruction"], row["input"][: row["input_chars"]]),
        "output": row["output"],
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model, corpus, sample = Path(job["model"]), Path(job["folder"]), Path(job["sample"])
    if model != Path(job["base"]) and not (model / "model.safetensors").is_file():
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
