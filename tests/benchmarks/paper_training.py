"""One fine-tuning and its measures, for paper.py: sequences packed without padding, logits at target positions alone.

A batch is a single row of whole sequences, and position ids that start again at 0 say where each begins: transformers then lets
no token attend to another sequence. `require_packing` proves that of a model before it is trained.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import downstream_training as training
import paper_suite
import torch
from downstream_training import Ids
from paper_suite import Suite
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder

Row = tuple[str, str, str, float]  # instruction, input, output, and the weight of the loss
MEASURED_TOKENS = 1024  # of a pass
APART = 0.05  # nats by which a packed token may differ from one alone: bfloat16 of a deep model moves less


@dataclass(frozen=True)
class Fit:
    """How every cell of a study is trained and measured. `short`: the longest target, in tokens with its end, whose exact match
    is measured; `lora`: the rank of the adapters, None to train all weights."""

    passes: float = 3.0
    tokens: int = 1024
    learning_rate: float = 5e-5
    max_length: int = 512
    template: str = "alpaca"
    bfloat16: bool = True
    lora: int | None = None
    short: int = 16

    def steps(self, budget_tokens: float) -> int:
        """Batches of a training whose budget is so many tokens: the same for all methods of the budget."""
        return max(1, round(self.passes * budget_tokens / self.tokens))


def encoder_of(tokenizer: PreTrainedTokenizerBase, fit: Fit) -> Encoder:
    """The encoder by which rows become ids, in training as in measures."""
    return Encoder(tokenizer, load_template(fit.template, tokenizer), append_eos=True, max_length=fit.max_length)


def encode(encoder: Encoder, rows: Sequence[Row]) -> list[Ids | None]:
    """Ids of prompt and target of each row, with its weight; None for one that is longer than `max_length` or that the template
    refuses."""
    prompts = encoder.prompts([row[:2] for row in rows])
    targets = encoder.targets([row[2] for row in rows])
    return [
        (prompt, target, row[3])
        if isinstance(prompt, list) and target and len(prompt) + len(target) <= encoder.max_length
        else None
        for prompt, target, row in zip(prompts, targets, rows, strict=True)
    ]


def length(row: Ids) -> int:
    """Tokens of a row, prompt and target."""
    return len(row[0]) + len(row[1])


def pack(rows: Sequence[Ids]) -> dict[str, torch.Tensor]:
    """ids_1T and position_ids_1T of whole sequences one after the other; for each of N target tokens the place in T whose
    logits predict it, the token, the number of its row, and the row's weight (all of shape N)."""
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for prompt, target, _ in rows:
        first = len(ids) + len(prompt) - 1  # the last token of the prompt predicts the first one of the target
        places += range(first, first + len(target))
        ids += [*prompt, *target]
        positions += range(len(prompt) + len(target))
    counts = torch.tensor([len(target) for _, target, _ in rows])
    weights = torch.tensor([weight for _, _, weight in rows])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "places": torch.tensor(places),
        "targets": torch.tensor([token for _, target, _ in rows for token in target]),
        "numbers": torch.arange(len(rows)).repeat_interleave(counts),
        "weights": weights.repeat_interleave(counts),
    }


def target_logits(model: Any, packed: dict[str, torch.Tensor]) -> torch.Tensor:
    """Float32 logits_NV of the target tokens of packed rows."""
    named = {name: packed[name] for name in ("input_ids", "position_ids")}
    logits: torch.Tensor = model(**named, logits_to_keep=packed["places"], use_cache=False).logits[0]
    return logits.float()


def weighted_loss(model: Any, packed: dict[str, Any]) -> torch.Tensor:
    """The loss of each target token times the weight of its row, over the number of target tokens: with weights of 1 the
    usual mean."""
    losses = torch.nn.functional.cross_entropy(target_logits(model, packed), packed["targets"], reduction="none")
    return (losses * packed["weights"]).mean()


def autocast(fit: Fit) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where the study asks for it, on whichever device there is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16) if fit.bfloat16 else contextlib.nullcontext()


def with_adapters(model: torch.nn.Module, rank: int) -> torch.nn.Module:
    """The model with LoRA adapters at all linear layers; only they are trained. Raises ImportError without peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted: torch.nn.Module = get_peft_model(model, config)
    return adapted


def fine_tune(model: torch.nn.Module, rows: Sequence[Ids], fit: Fit, steps: int, seed: int) -> torch.nn.Module:
    """The model after `steps` batches of about `fit.tokens` tokens, rows in an order of the seed: AdamW, warm-up of a tenth,
    then down to zero. Raises ValueError without rows."""
    torch.manual_seed(seed)
    trained = with_adapters(model, fit.lora) if fit.lora else model
    batches = training.equal_batches(rows, steps, fit.tokens, seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training.arguments(
            folder, steps=steps, learning_rate=fit.learning_rate, seed=seed, bf16=fit.bfloat16
        )
        trainer = training.trainer_of(
            weighted_loss,
            model=trained,
            args=arguments,
            train_dataset=batches,  # type: ignore[arg-type]
            data_collator=lambda items: pack(items[0]),
        )
        trainer.train()
    return trained.eval()


@torch.inference_mode()
def measure(model: torch.nn.Module, rows: Sequence[Ids], fit: Fit) -> dict[str, list[Any]]:
    """Of each row, in their order: `loglik`, the mean log-likelihood per target token in nats, and `exact`, 1 where greedy
    decoding gives the target with its end and 0 where not, None for a target of more than `fit.short` tokens.

    Greedy decoding gives the target if and only if every token of it is the likeliest one after those before it.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda place: length(rows[place]))
    logliks, right = [0.0] * len(rows), [0] * len(rows)
    with autocast(fit):
        while order:
            taken = [order.pop()]
            while order and sum(length(rows[place]) for place in [*taken, order[-1]]) <= MEASURED_TOKENS:
                taken.append(order.pop())
            packed = {name: value.to(device) for name, value in pack([rows[place] for place in taken]).items()}
            logits, targets = target_logits(model, packed), packed["targets"]
            chosen = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
            hits = logits.argmax(-1) == targets
            for number, place in enumerate(taken):
                own = packed["numbers"] == number
                logliks[place], right[place] = float(chosen[own].double().mean()), int(hits[own].all())
    short = [len(target) <= fit.short for _, target, _ in rows]
    return {"loglik": logliks, "exact": [hit if fits else None for hit, fits in zip(right, short, strict=True)]}


def require_packing(model: torch.nn.Module, rows: Sequence[Ids], fit: Fit) -> None:
    """Raise ValueError where a token of a packed row sees another row, so that a model would be trained on what it is not."""
    several = [row for row in sorted(rows, key=length)[:3] if length(row) > 1]
    together, alone = (
        [value for group in groups for value in measure(model, group, fit)["loglik"]]
        for groups in ([several], [[row] for row in several])
    )
    apart = max((abs(some - other) for some, other in zip(together, alone, strict=True)), default=0.0)
    if not apart <= APART:
        raise ValueError(
            f"{type(model).__name__} does not keep packed sequences apart: their likelihoods differ by {apart:.3g} nats from "
            "those of each alone; accepted: a model whose attention follows position_ids, such as Llama, Qwen or Gemma"
        )


def load(model: str, fit: Fit) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """A model, on the GPU if there is one, and its tokenizer. Weights that adapters leave as they are need no float32."""
    network, tokenizer = training.load(model)
    if fit.lora and fit.bfloat16:
        network = network.to(torch.bfloat16)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def tokens_of(model: str, rows: Sequence[Row], fit: Fit) -> int:
    """Tokens of all rows that a training would keep, as a model's tokenizer counts them."""
    encoder = encoder_of(AutoTokenizer.from_pretrained(model), fit)
    return sum(length(row) for row in encode(encoder, rows) if row)


def work_cell(
    model: str,
    rows: Sequence[Row],
    held_out: dict[str, list[Row]],
    fit: Fit,
    steps: int,
    seed: int,
    threads: int,
    suite: Suite | None = None,
) -> dict[str, Any]:
    """Train on rows and measure on the held-out rows of each corpus; without steps, measure the model as it is.

    The same arguments give the same figures, on the same machine. What was lost on the way is counted: `too_long`.
    """
    torch.set_num_threads(threads)
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # what torch asks for where GPUs are to repeat themselves
    torch.use_deterministic_algorithms(True, warn_only=True)
    start, cpu = time.perf_counter(), time.process_time()
    network, tokenizer = load(model, fit)
    encoder = encoder_of(tokenizer, fit)
    measured = {name: [row for row in encode(encoder, some) if row] for name, some in held_out.items()}
    if empty := [name for name, some in measured.items() if not some]:
        raise ValueError(f"no held-out row of {', '.join(empty)} fits into {fit.max_length} tokens")
    require_packing(network, next(iter(measured.values())), fit)
    kept = [row for row in encode(encoder, rows) if row]
    if steps:
        network = fine_tune(network, kept, fit, steps, seed)
    return {
        "held_out": {name: measure(network, some, fit) for name, some in measured.items()},
        "suite": paper_suite.run(network, tokenizer, suite) if suite else None,
        "rows": len(rows),
        "too_long": len(rows) - len(kept),
        "tokens": steps * fit.tokens,
        "seconds": round(time.perf_counter() - start, 1),
        "core_seconds": round(time.process_time() - cpu, 1),
    }
