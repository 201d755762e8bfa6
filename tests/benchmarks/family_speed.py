"""What sharing beginnings is worth to each model family: its own modules over packs, beside padded batches.

    PYTHONPATH=tests:. python tests/benchmarks/family_speed.py CORPUS --families mixtral gpt_oss

Random models of about 20 million parameters with what is peculiar to a family switched on (`tests/families.py`); pairs of a
real corpus, each row under its own instruction, none, and K others at random, with ids of the bundled scorer's tokenizer.
Both sides score the same pairs in one process, in turn; their sums are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from families import QUIRKS, SMALL
from half_planted import BATCH_TOKENS, config_of, drawn, encoded_rows
from likelihoods import pairs_of, table_of
from transformers import AutoConfig, AutoModelForCausalLM

from operators.scoring import scorer as scorer_module
from operators.scoring.scorer import TargetScorer
from pipeline import demo, preflight

SHAPE = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "intermediate_size": 1024,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
WIDER = {
    "global_head_dim": 128,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "hidden_size_per_layer_input": 32,
    "sliding_window": 128,
    "laurel_rank": 32,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 96),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size"), 64),
    "mamba_d_ssm": 768,
    "attention_head_dim": 128,
}
A_LAYER = ("layer_types", "layers_block_type", "no_rope_layers", "activation_sparsity_pattern")  # lists for four layers
NUMBERED = ("attn_layer_indices", "hybrid_layer_ids")  # numbers of some of the four


def model_of(family: str, vocabulary: int) -> torch.nn.Module:
    """A model of this shape with a family's quirks."""
    quirks = {name: WIDER.get(name, value) for name, value in QUIRKS[family].items()}
    quirks |= {name: quirks[name] * 2 for name in A_LAYER if name in quirks}
    quirks |= {name: [*quirks[name], *(number + 4 for number in quirks[name])] for name in NUMBERED if name in quirks}
    of_vocabulary = {"vocab_size": vocabulary}
    if "vocab_size_per_layer_input" in quirks:
        of_vocabulary["vocab_size_per_layer_input"] = vocabulary
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **quirks, **SHAPE, **of_vocabulary})
    return AutoModelForCausalLM.from_config(config).float().eval()


def scorer_of(model: torch.nn.Module, way: str) -> TargetScorer:
    """A scorer that runs a model in this way."""
    scorer_module.walkable = lambda model: False
    scorer_module.packable = lambda model: way == "packed"
    scorer = TargetScorer(model, BATCH_TOKENS, longest=1024)
    if scorer.way != way:
        raise SystemExit(f"{model.config.model_type} runs {scorer.way}, not {way}")
    return scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--families", nargs="+", choices=sorted(QUIRKS), default=sorted(QUIRKS))
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checked = preflight.check_models(config_of(str(demo.MODEL), "alpaca", "float32"), preflight.read_template("alpaca"))
    table = table_of(options.corpus, options.rows, longest=1500)
    encoded, encoder = encoded_rows(table, drawn(table.to_pylist(), options.k, seed=0), checked)
    pairs = [pair for row in pairs_of(encoded, encoder.context) for pair in row]
    prompts, targets = [prompt for prompt, _ in pairs], [target for _, target in pairs]
    lengths = np.array([len(target) for target in targets])
    print(f"{len(pairs):,} pairs, {sum(map(len, prompts)) + lengths.sum():,} tokens", flush=True)
    for family in options.families:
        model = model_of(family, len(encoder.tokenizer))
        scorers = {way: scorer_of(model, way) for way in ("packed", "padded")}
        seconds: dict[str, list[float]] = {way: [] for way in scorers}
        sums = {}
        for _ in range(options.rounds):
            for way, scorer in scorers.items():
                began = time.perf_counter()
                sums[way] = scorer.sums(prompts, targets)
                seconds[way].append(time.perf_counter() - began)
        off = (np.abs(sums["packed"] - sums["padded"]) / lengths).max()
        packed, padded = (statistics.median(times) for times in seconds.values())
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        print(
            f"{family:<18} {millions:5.1f} M  {packed:6.2f} s  {padded:6.2f} s  {padded / packed:.2f}x  {off:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
