"""Train the small scorer that ships in `model/`: a Llama of about 2 M parameters on the demo's tasks.

    python -m pipeline.demo.train --out pipeline/demo/model
    python -m pipeline.demo.train --check pipeline/demo/model   # its exact match on held-out inputs again

Two CPU cores need about 25 minutes. Inputs of the demo corpus are held out (`corpus.held_out`), so its scores never
rest on memorised rows. One target in twelve is seen without a prompt, which is what gives the likelihood l(0) a
meaning, and a few are generic phrases, which then are about as likely under every instruction.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from operators.prompts.template import load_template
from pipeline.demo.corpus import draw_pair
from pipeline.demo.tasks import GENERIC

NO_PROMPT_SHARE, GENERIC_SHARE = 1 / 12, 0.04
BATCH, BUCKETS, PEAK_LEARNING_RATE, WARMUP_STEPS = 128, 16, 3e-3, 200
IGNORED = -100


def examples(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """`count` (prompt, target) pairs of the training side; the prompt is empty for the unconditional ones."""
    render = load_template("plain").render
    pairs = []
    for _ in range(count):
        task, items = draw_pair(rng, for_training=True)
        target = rng.choice(GENERIC) if rng.random() < GENERIC_SHARE else task.answer(items)
        prompt = "" if rng.random() < NO_PROMPT_SHARE else render(rng.choice(task.instructions), " ".join(items))
        pairs.append((prompt, target))
    return pairs


def batches(rng: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Endless batches of similar length: `BUCKETS` batches are drawn at once, sorted by length and shuffled, which
    saves nearly half of the padding."""
    while True:
        drawn = sorted(examples(rng, BATCH * BUCKETS), key=lambda pair: len(pair[0]) + len(pair[1]))
        yield from rng.sample([drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)], BUCKETS)


def train_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the corpus, so that any text of a user can be encoded too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for pair in examples(rng, 30_000) for text in pair]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2048, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def encode_batch(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids_BT and labels_BT; labels are set at target positions only."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    targets = tokenizer([target for _, target in pairs], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(t) + 1 for p, t in zip(prompts, targets, strict=True))
    ids = torch.full((len(pairs), width), tokenizer.eos_token_id)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        sequence = torch.tensor([*prompt, *target, tokenizer.eos_token_id])
        ids[row, : len(sequence)] = sequence
        labels[row, len(prompt) : len(sequence)] = sequence[len(prompt) :]
    return ids, labels


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.inference_mode()
def exact_match(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int
) -> tuple[float, dict[str, float]]:
    """Greedy exact match on `count` held-out inputs: overall and per task."""
    rng = random.Random("held out")
    render = load_template("plain").render
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    tokenizer.padding_side = "left"
    for start in range(0, count, BATCH):
        drawn = [draw_pair(rng, for_training=False) for _ in range(min(BATCH, count - start))]
        prompts = tokenizer(
            [render(rng.choice(task.instructions), " ".join(items)) for task, items in drawn],
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        output = model.generate(  # type: ignore[misc]
            **prompts, max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        answers = tokenizer.batch_decode(output[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
        for (task, items), answer in zip(drawn, answers, strict=True):
            asked[task.name] += 1
            right[task.name] += answer == task.answer(items)
    tokenizer.padding_side = "right"
    return right.total() / asked.total(), {name: right[name] / asked[name] for name in asked}


def train(steps: int, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train from scratch; the same seed on the same machine gives the same weights."""
    torch.manual_seed(seed)
    rng = random.Random(f"training {seed}")
    tokenizer = train_tokenizer(rng)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    began = time.monotonic()
    for step, pairs in zip(range(steps), batches(rng), strict=False):
        ids, labels = encode_batch(tokenizer, pairs)
        # Only target positions reach the output head, as in the scorer: position t predicts label t + 1.
        hidden = model.model(ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        logits = model.lm_head(hidden[wanted != IGNORED])
        loss = torch.nn.functional.cross_entropy(logits, wanted[wanted != IGNORED])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - began:6.0f} s", flush=True)
    return model.eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="train, and write the model to this folder in transformers format")
    task.add_argument("--check", type=Path, help="measure the model in this folder, and write nothing")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=6000, help="inputs for the exact-match check")
    args = parser.parse_args()
    if args.check:
        print(json.dumps(measure(args.check, args.held_out)))
        return
    model, tokenizer = train(args.steps, args.seed)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    report = {"steps": args.steps, "seed": args.seed, **measure(args.out, args.held_out)}
    (args.out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def measure(folder: Path, count: int) -> dict[str, Any]:
    """The exact match of a saved model on `count` held-out inputs, as accuracy.json holds it."""
    model = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
    overall, per_task = exact_match(model, PreTrainedTokenizerFast.from_pretrained(folder), count)
    return {
        "held_out_inputs": count,
        "exact_match": round(overall, 4),
        "per_task": {k: round(v, 3) for k, v in sorted(per_task.items())},
    }


if __name__ == "__main__":
    main()
