"""Families of models, by the `model_type` of their configuration, and how each may be run."""

from typing import Any

# Beside attention these have layers that carry a state from token to token, as transformers' caches hold it (`recurrent`):
# linear attention, state spaces, short convolutions.
WITH_STATE = frozenset(
    {
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "lfm2",
        "lfm2_moe",
        "nemotron_h",
        "olmo_hybrid",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "zamba2",
    }
)

# In the others tokens meet in attention alone, which is handed what it needs (`packed_modules`). Where they meet elsewhere, the
# probe finds it.
PACKED = WITH_STATE | frozenset(
    {
        "apertus",
        "arcee",
        "cohere",
        "cohere2",
        "cwm",
        "ernie4_5",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma3n_text",
        "gemma4_text",
        "glm",
        "glm4",
        "glm4_moe",
        "gpt_neox",
        "gpt_oss",
        "granite",
        "granitemoe",
        "helium",
        "hunyuan_v1_dense",
        "internlm3",
        "iquestcoder",
        "llama",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "starcoder2",
        "vaultgemma",
    }
)

# Split over processes they give their own numbers (`sharding`). A plan of transformers that forgets a part of a family gives
# other numbers and says nothing, so these are the ones that were compared (`tests/benchmarks/sharded_families.py`). Of the
# others Gemma 3n gives other numbers, Cohere's norms fail, gpt-oss and Hunyuan are hardly split, and of Gemma 4, whose layers
# differ in their heads, nothing would tell a number of heads that cannot be divided. Layers with a state were not compared.
SPLIT = PACKED - WITH_STATE - {"cohere", "gemma3n_text", "gemma4_text", "gpt_oss", "hunyuan_v1_dense"}


def has_own_code(config: Any, *, trust_remote_code: bool) -> bool:
    """Whether a model is run by code that came with it, whatever its family is called."""
    return trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
