"""Likelihoods of a real model beside plain transformers, one sequence at a time: in float32, and in bfloat16.

    python ../shared/tools/real_models.py smollm2 SMOLLM2
    python tests/benchmarks/likelihoods.py CORPUS --scorer SMOLLM2 --template chat

Each row is scored under its own instruction, under none, and under K others at random. The plain side calls the model on one
sequence, without padding or a cache, and takes a log-softmax of all logits in float32. Errors are of means over the tokens of a
target, against the plain side in float32: of the project in float32, of the project in bfloat16, and of the plain side in
bfloat16. Both sides get the same ids; where these come from is tested elsewhere.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from half_planted import BATCH_TOKENS, config_of, drawn, encoded_rows
from half_planted_corpus import read_rows

from operators.scoring import fitness, scores
from operators.scoring.models import load_model
from operators.scoring.scorer import TargetScorer
from pipeline import preflight
from pipeline.config import Score

DTYPES = ("float32", "bfloat16")
Pair = tuple[list[int], list[int]]


def table_of(corpus: Path, rows: int, longest: int) -> pa.Table:
    """Rows of a corpus, as `encoded_rows` takes them."""
    records = [
        {
            "id": str(number),
            "source": corpus.name,
            "file": corpus.name,
            "line": number,
            **{name: getattr(row, name) for name in ("instruction", "input", "output")},
            **dict.fromkeys(("messages", "conversation", "turn")),
            "extra": "{}",
            "n_prompt_tokens": 0,
        }
        for number, row in enumerate(read_rows(corpus, longest)[:rows])
    ]
    return pa.Table.from_pylist(records)


def pairs_of(encoded: pa.Table, context: list[int]) -> list[list[Pair]]:
    """By row its own pair, that of no instruction, and those of its alternatives."""
    return [
        [
            (prompt, row["target"])
            for prompt in (row["prompt"], context, *(other["prompt"] for other in row["alternatives"]))
        ]
        for row in encoded.to_pylist()
    ]


@torch.inference_mode()
def plain_sum(model: Any, prompt: list[int], target: list[int]) -> float:
    """The log-likelihood of a target in nats."""
    logits_TV = model(input_ids=torch.tensor([prompt + target]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs_TV = logits_TV.float().log_softmax(dim=-1)
    return float(logprobs_TV.gather(1, torch.tensor(target)[:, None]).double().sum())


def means(model: Any, rows: list[list[Pair]], *, plain: bool) -> np.ndarray:
    """Float64 [N, 2 + K]: mean log-likelihoods a token, NaN where a row has fewer pairs."""
    pairs = [pair for row in rows for pair in row]
    began = time.monotonic()
    if plain:
        sums = np.array([plain_sum(model, *pair) for pair in pairs])
    else:
        scorer = TargetScorer(model, BATCH_TOKENS, longest=1024)
        sums = np.asarray(scorer.sums([prompt for prompt, _ in pairs], [target for _, target in pairs]))
    tokens = sum(len(prompt) + len(target) for prompt, target in pairs)
    dtype = str(model.dtype).removeprefix("torch.")
    spent = time.monotonic() - began
    print(f"{'plain' if plain else 'ours'} {dtype}: {len(pairs):,} pairs, {tokens:,} tokens, {spent:.0f} s", flush=True)
    means = iter(sums / np.array([len(target) for _, target in pairs]))
    filled = np.full((len(rows), max(map(len, rows))), np.nan)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = [next(means) for _ in row]
    return filled


def tss_pp(means_NP: np.ndarray) -> np.ndarray:
    """Of rows whose first mean is their own and whose second that of no instruction."""
    asked = Score()
    constants = {"hardest": asked.hardest, "tau": asked.tau, "alpha": asked.alpha}
    return scores.tss_pp(means_NP[:, 0], means_NP[:, 2:], **constants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--scorer", required=True)
    parser.add_argument("--template", default="chat")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--longest", type=int, default=700, help="characters of a row")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="float32 first")
    options = parser.parse_args()
    if options.dtype[0] != DTYPES[0]:
        parser.error("float32 comes first: errors are against it")
    checked = preflight.check_models(
        config_of(options.scorer, options.template, "float32"), preflight.read_template(options.template)
    )
    table = table_of(options.corpus, options.rows, options.longest)
    texts = drawn(table.to_pylist(), options.k, seed=0)
    encoded, encoder = encoded_rows(table, texts, checked)
    rows = pairs_of(encoded, encoder.context)
    exact = np.zeros(0)
    for dtype in options.dtype:
        model = load_model(**checked.model(dtype))
        for side in ("plain", "ours"):
            values = means(model, rows, plain=side == "plain")
            if not len(exact):
                exact = values  # float32 comes first, and its plain side
                continue
            errors = np.abs(values - exact)[np.isfinite(exact)]
            agreement = fitness.spearman(tss_pp(values), tss_pp(exact))
            print(f"  mean error a token {errors.mean():.2e}, largest {errors.max():.2e}", end="; ")
            print(f"Spearman of tss_pp {agreement:.4f}", flush=True)


if __name__ == "__main__":
    main()
