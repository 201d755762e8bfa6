"""What other kernels of torch would give the scorer on a CPU: compiled norms, torch's own fused loss, 8-bit products.

    export PYTHONPATH=tests:tests/benchmarks:. OMP_NUM_THREADS=1
    python tests/benchmarks/other_kernels.py compiled head
    python tests/benchmarks/other_kernels.py int8 --scorer SMOLLM2 --corpus CORPUS

Each is compared with what the scorer does now, on the same tensors or pairs: numbers first, then time, the least of several
calls in turn. None of them is used; RESULTS.md says why.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from half_planted import BATCH_TOKENS, config_of, drawn, encoded_rows
from likelihoods import means, pairs_of, table_of, tss_pp
from torch.nn import functional

from operators.scoring import decoder, fitness
from operators.scoring.head import chosen_logprobs, target_logprobs
from operators.scoring.models import load_model
from pipeline import preflight

TOKENS, WIDTH, HEADS, HEAD_WIDTH, WIDE = 4096, 576, 9, 64, 1536  # a batch and a layer of SmolLM2-135M
HEADS_OF = {"SmolLM2-135M": (576, 49_152), "Gemma 3 270M": (640, 262_144)}  # width, vocabulary
POSITIONS = 1024  # that reach the head together
DTYPES = (torch.bfloat16, torch.float32)


def least(call: Callable[[], Any], times: int = 5) -> float:
    """Milliseconds of the fastest of some calls, after one that is not counted."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1e3 * min(seconds)


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The walk's own, of a family whose norms scale by the weight."""
    walk, module = SimpleNamespace(_norm_offset=0.0), SimpleNamespace(eps=1e-5)
    return decoder.Decoder._norm(walk, module, x, weight=weight)


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    exact = x.float()
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-5)
    return (exact * scale * weight.float()).to(x.dtype)


def plain_rotation(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return functional.silu(gate) * up


def compiled() -> None:
    """Norms, rotations and gates as they are, and as one kernel each."""
    for dtype in DTYPES:
        x, weight = torch.randn(TOKENS, WIDTH).to(dtype), torch.randn(WIDTH).to(dtype)
        heads = torch.randn(TOKENS, HEADS, HEAD_WIDTH).to(dtype)
        cos, sin = (torch.randn(TOKENS, 1, HEAD_WIDTH // 2).to(dtype) for _ in range(2))
        gate, up = (torch.randn(TOKENS, WIDE).to(dtype) for _ in range(2))
        for name, ours, plain, tensors in (
            ("norm", norm, plain_norm, (x, weight)),
            ("rotation", decoder._rotate_halves, plain_rotation, (heads, cos, sin)),
            ("gate", gated, gated, (gate, up)),
        ):
            kernel = torch.compile(plain, dynamic=True)
            began = time.perf_counter()
            apart = (kernel(*tensors).float() - ours(*tensors).float()).abs().max()
            first = time.perf_counter() - began
            now, then = (least(lambda f=f, t=tensors: f(*t)) for f in (ours, kernel))
            print(
                f"{name}, {dtype}: {now:.2f} ms as it is, {then:.2f} compiled, first call {first:.1f} s, apart {apart:.1e}"
            )


def head() -> None:
    """Log-probabilities of targets by our tiles, by torch's fused loss, and from whole logits."""
    for (name, (width, vocabulary)), dtype in ((item, dtype) for item in HEADS_OF.items() for dtype in DTYPES):
        module = torch.nn.Linear(width, vocabulary, bias=False, dtype=dtype)
        hidden, wanted = torch.randn(POSITIONS, width).to(dtype), torch.randint(0, vocabulary, (POSITIONS,))
        exact = -functional.cross_entropy(hidden.float() @ module.weight.float().t(), wanted, reduction="none")
        sides = {
            "tiles": lambda m=module, h=hidden, w=wanted: target_logprobs(m, lambda logits: logits, h, w),
            "linear_cross_entropy": lambda m=module, h=hidden, w=wanted: (
                -functional.linear_cross_entropy(h, m.weight, w, reduction="none")
            ),
            "whole logits": lambda m=module, h=hidden, w=wanted: chosen_logprobs(m(h), w),
        }
        for side, call in sides.items():
            off = (call().float() - exact).abs().max()
            print(f"head of {name}, {dtype}, {side}: {least(call, 2):,.0f} ms, off by at most {off:.1e}")


class Int8(torch.nn.Module):
    """A linear layer in 8 bits: a scale for each row of its input, found as it comes, and for each row of its weight."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.scale = linear.weight.float().abs().amax(1) / 127
        self.narrow = (linear.weight.float() / self.scale[:, None]).round().to(torch.int8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-9) / 127
        product = torch._int_mm((rows.float() / scale).round_().to(torch.int8), self.narrow.t())
        return product.float().mul_(scale).mul_(self.scale).to(x.dtype).view(*x.shape[:-1], -1)


def in_int8(model: Any) -> Any:
    """The model with all products of its layers in 8 bits; the head stays."""
    for layer in model.get_decoder().layers:
        for part in (layer.self_attn, layer.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(part, name, Int8(module))
    return model


def rate(product: Callable[..., Any], left: torch.Tensor, right: torch.Tensor) -> float:
    """GFLOP/s of a matrix product."""
    return 2 * left.numel() * len(right) / least(lambda: product(left, right.t())) / 1e6


def int8(options: argparse.Namespace) -> None:
    """Products in 8 bits beside bfloat16, and what each does to likelihoods of real pairs; the times of these say nothing, as a
    model whose last digits depend on its batch is run a sequence at a time."""
    for inner, outer in ((WIDTH, WIDE), (WIDE, WIDTH)):
        left, right = (torch.randint(-127, 127, size, dtype=torch.int8) for size in ((TOKENS, inner), (outer, inner)))
        wide = rate(torch.mm, left.bfloat16(), right.bfloat16())
        narrow = rate(torch._int_mm, left, right)
        print(f"{TOKENS} x {inner} x {outer}: {wide:.0f} GFLOP/s in bfloat16, {narrow:.0f} in int8")
    config = config_of(options.scorer, options.template, "float32")
    checked = preflight.check_models(config, preflight.read_template(options.template))
    table = table_of(options.corpus, options.rows, options.longest)
    encoded, encoder = encoded_rows(table, drawn(table.to_pylist(), options.k, seed=0), checked)
    rows = pairs_of(encoded, encoder.context)
    exact = means(load_model(**checked.model("float32")), rows, plain=False)
    sides = {
        "int8": in_int8(load_model(**checked.model("float32"))),
        "bfloat16": load_model(**checked.model("bfloat16")),
    }
    for name, model in sides.items():
        values = means(model, rows, plain=False)
        off = abs(values - exact)[exact == exact]
        agreement = fitness.spearman(tss_pp(values), tss_pp(exact))
        print(
            f"{name}: mean error a token {off.mean():.2e}, largest {off.max():.2e}; Spearman of tss_pp {agreement:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=["compiled", "head", "int8"])
    parser.add_argument("--scorer", help="of int8: a folder or a name of a causal language model")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--template", default="chat")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--longest", type=int, default=300, help="characters of a row")
    options = parser.parse_args()
    if "int8" in options.what and not (options.scorer and options.corpus):
        parser.error("int8 needs --scorer and --corpus")
    print(f"{torch.get_num_threads()} threads, batches of {BATCH_TOKENS} tokens")
    with torch.inference_mode():
        if "compiled" in options.what:
            compiled()
        if "head" in options.what:
            head()
        if "int8" in options.what:
            int8(options)


if __name__ == "__main__":
    main()
