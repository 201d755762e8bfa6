"""Whether a model can be a scorer, and whether its files hold the weights that it needs, before a weight is read.

What a checkpoint lacks transformers fills with random numbers, other ones in each process. What is missing is therefore taken
from the report of its loader: on the real loading, and before any work on one of tensors without content (on the device
`meta`), of the names and shapes in the headers of the files. So renamed, merged and tied weights count as the loader has them.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from operators.error_text import one_line
from operators.safetensors_header import Shapes
from operators.scoring.model_families import has_own_code

_log = logging.getLogger(__name__)
_ACCEPTED = "accepted: a causal (decoder-only) language model, which sees no token before it predicts it"
# Model types whose attention sees what follows, unless `is_decoder` of their configuration is true.
_ENCODERS = {
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "reformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
# What tools put before or into the names of weights when they save a model that they have wrapped, and what to do.
_WRAPPED = {
    "_orig_mod.": "torch.compile has put '_orig_mod.' before the names: save the module that was compiled (model._orig_mod)",
    "base_model.model.": "PEFT has put 'base_model.model.' before the names: merge it (merge_and_unload) and save the result",
    "base_layer.": "PEFT has wrapped the layers: merge the adapter (merge_and_unload) and save the result",
    "_fsdp_wrapped_module.": "FSDP has put '_fsdp_wrapped_module.' into the names: save the full state of the inner model",
    "module.": "a wrapper such as DataParallel has put 'module.' before the names: save the inner model (model.module)",
}
_QUANTISED = "accepted: a machine that has what this asks for, or the same model without quantisation"
_SHOWN = 3  # names in a message
_FEW_LAYERS = 1000  # which may share their weights, so that there are fewer of these


def kind_problem(config: Any, *, trust_remote_code: bool) -> str | None:
    """Why a model of this configuration is no scorer whatever its weights are, or None."""
    own_code = has_own_code(config, trust_remote_code=trust_remote_code)
    kind, text = config.model_type, config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return f"it is an encoder-decoder ({kind}); {_ACCEPTED}"
    if not own_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return f"transformers has no causal language model of the type {kind!r}; {_ACCEPTED}"
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return f"its configuration sets use_bidirectional_attention, so it sees the tokens that it is to predict; {_ACCEPTED}"
    masked = (
        (kind in _ENCODERS and not getattr(config, "is_decoder", False))
        or (kind == "xlnet" and config.attn_type != "uni")
        or (kind == "xlm" and not config.causal)
    )
    if masked and not own_code:
        return f"it is a masked language model ({kind}), which sees the tokens that it is to predict; {_ACCEPTED}"
    return None


def _quantisation(config: Any) -> Any:
    """Settings of the quantisation that transformers would undo or run, or None."""
    text = config.get_text_config(decoder=True)
    settings = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    if not settings:
        return None
    from transformers.quantizers.auto import (
        AutoHfQuantizer,
    )  # not at the top: it takes a second, and few models need it

    return settings if AutoHfQuantizer.supports_quant_method(settings) else None


def quantisation_problem(config: Any) -> str | None:
    """Why the quantised weights of a model cannot be loaded here, or None: a package that is not installed. What a machine with
    a GPU can and this one cannot is no problem: it need not be the one that scores."""
    try:
        settings = _quantisation(config)
        if settings is None:
            return None
        from transformers.quantizers.auto import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(copy.deepcopy(settings), pre_quantized=True)
    except Exception as error:  # noqa: BLE001 - settings are a stranger's, and loading the weights would raise it too
        return f"its weights are quantised, and cannot be loaded here: {one_line(error)}; {_QUANTISED}"
    try:
        quantizer.validate_environment(device_map=None, weights_only=True)
    except ImportError as error:
        if "install" in str(error):
            return f"its weights are quantised, and cannot be loaded here: {one_line(error)}; {_QUANTISED}"
    except Exception as error:  # noqa: BLE001 - of this machine's devices
        _log.info("quantised weights could not be loaded on this machine (%s)", error)
    return None


def header_problem(config: Any, shapes: Shapes, *, trust_remote_code: bool) -> str | None:
    """What `report_problem` will say when the weights are loaded, from their names and shapes; None also where a dry run of
    loading tells nothing: for quantised weights, and where code of a model fails in it."""
    if _quantisation(config) is not None:
        return None
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > _FEW_LAYERS + len(shapes):
        # To make them only to say so could take all memory.
        return (
            f"its configuration asks for {layers:,} layers, and its files hold {len(shapes):,} weights; accepted: "
            "weights and config.json of the same model"
        )
    try:
        with _quiet():
            report = _dry_run(config, shapes, trust_remote_code)
    except Exception as error:  # noqa: BLE001 - loading the weights says it again, if it is the model's fault
        _log.info("what the weights' headers lack could not be told (%s)", one_line(error))
        return None
    return report_problem(report)


def _dry_run(config: Any, shapes: Shapes, trust_remote_code: bool) -> dict[str, Any]:
    # What `from_pretrained` does with a checkpoint, step by step: its own argument for a device needs another package.
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.modeling_utils import LoadStateDictConfig

    meta = torch.device("meta")
    with meta:
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    renamed: Any = get_model_conversion_mapping(model)
    loading = LoadStateDictConfig(
        device_map={"": meta},
        dtype=model.dtype,
        weight_mapping=renamed,
        ignore_mismatched_sizes=True,
    )
    report, _ = model._load_pretrained_model(model, tensors, None, loading)
    facts: dict[str, Any] = model._finalize_model_loading(model, loading, report).to_dict()
    return facts


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report and progress: what it says is said by us, where it counts."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def report_problem(report: dict[str, Any]) -> str | None:
    """What is wrong with a model that was loaded so, or None. `report` is what `output_loading_info` of transformers gives.

    Weights that the model does not use are no problem, such as those of a part for images, unless an adapter is among them.
    """
    missing, unused = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"])
    if missing:
        wrapped = (advice for part, advice in _WRAPPED.items() if any(part in name for name in unused))
        advice = next(wrapped, "accepted: a checkpoint that holds them all, as save_pretrained writes it")
        return (
            f"its files lack {len(missing):,} of the weights that its configuration asks for: {_listed(missing)} "
            f"(random numbers would stand for them); {advice}"
        )
    if mismatched:
        name, there, asked = mismatched[0]
        return (
            f"{len(mismatched):,} of its weights have another shape than its configuration asks for: {name} has {list(there)}, "
            f"asked for is {list(asked)}; accepted: weights and config.json of the same model"
        )
    adapter = [name for name in unused if ".lora_A." in name or ".lora_B." in name]
    if adapter:
        return f"its files hold an adapter that would be left out ({_listed(adapter)}); {_WRAPPED['base_layer.']}"
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", .." if len(names) > _SHOWN else "")
