"""One fine-tuning and one evaluation, for downstream.py: transformers' Trainer, batches of equal tokens, exact match."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from operators.prompts.tokenise import encode_prompts, encode_targets

# The Trainer is slow to import, and only what trains needs it.
if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

IGNORED = -100
EVAL_TOKENS = 4096
Pair = tuple[str, str, float]  # prompt and target as text, and the weight of the loss
Ids = tuple[list[int], list[int], float]  # of prompt and target, and the weight of the loss


def load(folder: str) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """A causal LM in float32 and its tokenizer; safetensors only."""
    return (
        AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )


def encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[Ids]:
    """Prompt and target ids as the scorer makes them; every target ends with EOS, which a model must learn to write."""
    prompts = encode_prompts(tokenizer, [prompt for prompt, _, _ in pairs])
    targets = encode_targets(tokenizer, [target for _, target, _ in pairs], append_eos=True)
    return list(zip(prompts, targets, [weight for _, _, weight in pairs], strict=True))


def equal_batches(rows: Sequence[Ids], steps: int, tokens: int, seed: int) -> list[list[Ids]]:
    """`steps` batches of about `tokens` tokens each, the rows in a new order in every pass over them.

    A batch ends with the row that carries the running total over the next multiple of `tokens`, so all trainings with the same
    numbers see the same amount of tokens, to within a row, however long their rows are. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("nothing to train on: the selection is empty")
    rng = random.Random(seed)
    batches: list[list[Ids]] = [[]]
    total = 0
    while True:
        for row in rng.sample(rows, len(rows)):
            batches[-1].append(row)
            total += len(row[0]) + len(row[1])
            if total >= tokens * len(batches):
                if len(batches) == steps:
                    return batches
                batches.append([])


def collate(rows: Sequence[Ids], padding: int) -> dict[str, torch.Tensor]:
    """Right-padded ids_BT, attention mask and labels_BT; labels are set at target positions only."""
    width = max(len(prompt) + len(target) for prompt, target, _ in rows)
    ids = torch.full((len(rows), width), padding)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for place, (prompt, target, _) in enumerate(rows):
        end = len(prompt) + len(target)
        ids[place, :end] = torch.tensor([*prompt, *target])
        labels[place, len(prompt) : end] = torch.tensor(target)
        mask[place, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def trainer_of(loss: Callable[[Any, dict[str, Any]], torch.Tensor], **settings: Any) -> Trainer:
    """A Trainer that lowers `loss` of the model and what a batch holds."""
    from transformers import Trainer

    class OfThisLoss(Trainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
            return loss(model, inputs)

    return OfThisLoss(**settings)


def weighted_loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The loss of each target token times the weight of its row, over the number of target tokens: with weights of 1 the
    usual mean."""
    weights, labels = inputs.pop("row_weights"), inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (losses.view(labels.shape) * weights[:, None]).sum() / (labels != IGNORED).sum()


def arguments(folder: str, *, steps: int, learning_rate: float, seed: int, bf16: bool = False) -> TrainingArguments:
    """Of a Trainer whose data set holds whole batches: AdamW, warm-up of a tenth, then down to zero; nothing is written."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=1,  # an item of the data set is a whole batch
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 10),
        weight_decay=0.01,
        adam_beta2=0.98,
        seed=seed,
        bf16=bf16,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )


def fine_tune(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    steps: int,
    tokens: int,
    learning_rate: float,
    seed: int,
) -> torch.nn.Module:
    """Train on the targets of `pairs` for `steps` batches of `tokens` tokens: AdamW, warm-up of a tenth, then down to zero."""
    batches = equal_batches(encode(tokenizer, pairs), steps, tokens, seed)
    with tempfile.TemporaryDirectory() as folder:
        own = arguments(folder, steps=steps, learning_rate=learning_rate, seed=seed)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        trainer = trainer_of(
            weighted_loss,
            model=model,
            args=own,
            train_dataset=batches,  # type: ignore[arg-type]
            data_collator=lambda items: {
                **collate(items[0], padding),
                "row_weights": torch.tensor([weight for _, _, weight in items[0]]),
            },
        )
        trainer.train()
    return model.eval()


@torch.inference_mode()
def evaluate(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Over held-out pairs: the share whose target greedy decoding gives exactly, EOS with it, and the mean over pairs of
    the log-likelihood per target token.

    Greedy decoding gives the target if and only if every token of it is the likeliest one after those before it, so one
    pass over the whole pair answers what a generation token by token would.
    """
    device = next(model.parameters()).device
    rows = sorted(encode(tokenizer, pairs), key=lambda row: len(row[0]) + len(row[1]))
    right, logliks = 0, 0.0
    while rows:
        width = len(rows[-1][0]) + len(rows[-1][1])
        batch = [rows.pop() for _ in range(min(len(rows), max(1, EVAL_TOKENS // width)))]
        inputs = {name: value.to(device) for name, value in collate(batch, tokenizer.eos_token_id).items()}
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs).logits[:, :-1].float()  # position t predicts label t + 1
        wanted = labels != IGNORED
        right += int(((logits.argmax(-1) == labels) | ~wanted).all(dim=1).sum())
        chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        logliks += float(((chosen * wanted).sum(1) / wanted.sum(1)).sum())
    return {"exact_match": right / len(pairs), "loglik": logliks / len(pairs)}
