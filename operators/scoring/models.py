"""Loading a causal LM safely: safetensors only, no remote code unless asked, clear words when it fails."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from operators.model_files import (
    BUT_WEIGHTS,
    MODEL_FILES,
    NO_SAFETENSORS,
    SAFETENSORS,
    files_digest,
    files_of,
    folder_of,
    looks_local,
    problem_of,
    require_folder,
    require_safetensors,
    version_of,
    weight_shapes,
)
from operators.model_files import ModelProblem as ModelProblem
from operators.scoring.checkpoint import header_problem, kind_problem, quantisation_problem, report_problem
from operators.scoring.sharding import split_over

_VERSION = "2"  # of how this project computes a likelihood; stored ones of another version are not used
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(name: str) -> str:
    """The version of a model that a run holds to, as `model_files.version_of` gives it; raises ModelProblem."""
    require_folder(name)
    try:
        return version_of(name)
    except OSError as error:
        raise problem_of(name, "the model", error) from error


def check_kind(name: str, config: Any, *, trust_remote_code: bool = False) -> None:
    """Raise ModelProblem where a model is no causal LM, by its configuration."""
    if problem := kind_problem(config, trust_remote_code=trust_remote_code):
        raise ModelProblem(f"scorer.model: {name!r}: {problem}")


def check_weights(name: str, version: str, config: Any, *, trust_remote_code: bool = False) -> None:
    """Raise ModelProblem where a model has not all weights that `load_model` would load, before anything depends on them.
    Configuration and headers of files tell; no weight is read, and none downloaded."""
    require_safetensors(name)
    if problem := quantisation_problem(config):
        raise ModelProblem(f"scorer.model: {name!r}: {problem}")
    try:
        files = files_of(name, version)
    except OSError as error:
        raise problem_of(name, "the list of its files", error) from error
    if "adapter_config.json" in files:
        # With the package peft, transformers would load whatever base model it names; without, the base alone.
        raise ModelProblem(f"scorer.model: {name!r} is an adapter; merge it into its base model and save the result")
    _refuse_pickle(name, config)
    named = getattr(config, "transformers_weights", None)
    if not files & ({named} if named else SAFETENSORS):
        raise ModelProblem(
            f"scorer.model: {name!r}: there is no {named or ' or '.join(sorted(SAFETENSORS))}, so it has no {NO_SAFETENSORS}"
        )
    # Of a file and an index transformers takes the file, which comes first here too.
    weights = named or min(files & SAFETENSORS)
    try:
        shapes = weight_shapes(name, version, files, weights)
    except OSError as error:
        raise problem_of(name, "the weights", error) from error
    problem = header_problem(config, shapes, trust_remote_code=trust_remote_code)
    if problem:
        raise ModelProblem(f"scorer.model: {name!r}: {problem}")


def _refuse_pickle(name: str, config: Any) -> None:
    named = getattr(config, "transformers_weights", None)  # the model's own choice, which comes before ours
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise ModelProblem(f"scorer.model: {name!r}: config.json names {named!r} as its weights: no {NO_SAFETENSORS}")


def load_config(name: str, *, version: str | None = None, trust_remote_code: bool = False) -> Any:
    """The model's configuration; raises ModelProblem."""
    return _load(AutoConfig, "the configuration", name, version, BUT_WEIGHTS, trust_remote_code=trust_remote_code)


def _load(loader: Any, what: str, name: str, version: str | None, patterns: tuple[str, ...], **options: Any) -> Any:
    require_folder(name)
    try:
        return loader.from_pretrained(folder_of(name, version, patterns), **options)
    except Exception as error:
        raise problem_of(name, what, error) from error


def window(config: Any) -> int | None:
    """How many positions the model was built for, or None where its configuration does not say."""
    text = config.get_text_config()
    return next(
        (
            n
            for key in ("max_position_embeddings", "n_positions", "max_seq_len")
            if isinstance(n := getattr(text, key, None), int)
        ),
        None,
    )


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it, else float32."""
    if dtype != "auto":
        return DTYPES[dtype]
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


class NoGpu(RuntimeError):
    """A process that holds a GPU which torch cannot use."""


def device_of(*, gpu: bool) -> str:
    """`cuda` where torch can use a GPU, else `cpu`. A process that was given a `gpu` must not compute on the CPU unnoticed:
    raises NoGpu, unless TSS_COUNTED_GPUS says that GPUs here are numbers, as in a simulated cluster."""
    if torch.cuda.is_available():
        return "cuda"
    if gpu and not os.environ.get("TSS_COUNTED_GPUS"):
        raise NoGpu(
            f"this process on {platform.node()} holds a GPU that torch {torch.__version__} cannot use; install a build of "
            "torch with CUDA and a driver that is new enough for it there, or set ray.gpus_per_scorer: 0 to score on CPUs"
        )
    return "cpu"


def gpu_count() -> int:
    """GPUs of this machine that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def load_model(
    name: str,
    *,
    version: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    shards: int = 1,
) -> torch.nn.Module:
    """The causal LM of `name` in inference mode on `device` (default: the GPU if there is one); raises ModelProblem, also where
    its files lack weights that it needs. Of several `shards`, this process's slice: all of the process group call this."""
    config = load_config(name, version=version, trust_remote_code=trust_remote_code)
    require_safetensors(name)
    _refuse_pickle(name, config)
    device = device or device_of(gpu=False)
    model, report = _load(
        AutoModelForCausalLM,
        "the weights",
        name,
        version,
        MODEL_FILES,
        dtype=resolve_dtype(dtype, device),
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that the report tells of them, as of those that are missing
        trust_remote_code=trust_remote_code,
        **({"distributed_config": split_over(shards)} if shards > 1 else {}),
    )
    problem = report_problem(report)
    if problem:
        raise ModelProblem(f"scorer.model: {name!r}: {problem}")
    loaded: torch.nn.Module = model.eval().requires_grad_(False)
    return loaded if shards > 1 else loaded.to(torch.device(device))  # slices are loaded where they belong


def empty_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The causal LM of a configuration in float32, with tensors that have shapes and no content."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).to(torch.float32)


def identity(
    name: str,
    version: str,
    tokenizer: Any,
    *,
    template_hash: str,
    append_eos: bool,
    trust_remote_code: bool = False,
    served: str | None = None,
) -> str:
    """128-bit hex digest of all that decides a likelihood, but for the dtype that it is computed in: model and version, whether
    its own code runs, template, tokenizer, EOS policy. Of a model behind a server, whose weights are not seen, `served` has its
    name there and what the server says is behind it.

    Releases of torch and transformers are not in it: from one to the next likelihoods differ as they do between two kinds of
    GPU, by less than scores can tell, and a patch release must not cost all that is stored. One that changes what a model
    computes is a reason to count _VERSION up.
    """
    digest = hashlib.blake2b(digest_size=16)
    folder = Path(name)
    patterns = ("config.json", "*.py", "*.safetensors", "*.safetensors.index.json")
    weights = files_digest(folder, *patterns) if looks_local(name) else f"{name}@{version}"
    weights = weights if served is None else f"served {served}"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    special = repr((tokenizer.bos_token_id, tokenizer.eos_token_id))
    remote_code = ["trust_remote_code"] if trust_remote_code else []
    for part in (_VERSION, weights, template_hash, vocabulary, special, str(append_eos), *remote_code):
        digest.update(hashlib.blake2b(part.encode(), digest_size=16).digest())
    return digest.hexdigest()
