"""The slow twins: each fast path of the project once more, in the plainest way, sharing no code with it."""

from __future__ import annotations

import math
import unicodedata

import numpy as np
import torch


def loglik(model, prompt_ids: list[int], target_ids: list[int]) -> float:
    """Sum of log p(target id | all before it): one sequence, full logits, one token at a time."""
    ids = torch.tensor([prompt_ids + target_ids])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].float()
    total = 0.0
    for place, token in enumerate(target_ids):
        total += torch.log_softmax(logits[len(prompt_ids) + place - 1], dim=-1)[token].item()
    return total


def fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def wording(text: str) -> str:
    kept = "".join(" " if unicodedata.category(c).startswith("P") else c for c in fold(text).casefold())
    return " ".join(kept.split()) or fold(text)


def alternatives(row: dict, rows: list[dict], pool: list[dict], k: int, paraphrase_max: float) -> tuple[list[str], int]:
    """The first k instructions that pass SPEC 2's rules, walking the whole pool; and the paraphrases passed over.

    `pool`: dicts with text, hash, vector. `rows`: all rows of the run, which say how an instruction is used.
    """
    own = next(one for one in pool if fold(one["text"]) == fold(row["instruction"]))
    ranked = sorted(
        pool,
        key=lambda one: (
            -float(np.dot(own["vector"].astype(np.float64), one["vector"].astype(np.float64))),
            one["hash"],
        ),
    )
    found, skipped = [], 0
    for one in ranked:
        if wording(one["text"]) == wording(row["instruction"]):
            continue
        if float(np.dot(own["vector"].astype(np.float64), one["vector"].astype(np.float64))) >= paraphrase_max:
            skipped += 1
            continue
        users = [other for other in rows if fold(other["instruction"]) == fold(one["text"])]
        with_input = {bool(other["input"].strip()) for other in users}
        if len(with_input) == 1 and with_input != {bool(row["input"].strip())}:
            continue
        if row["task"] is not None and row["task"] in {other["task"] for other in users}:
            continue
        found.append(one["text"])
        if len(found) == k:
            break
    return found, skipped


def tss(own: float, others: list[float]) -> float:
    return own - math.log(sum(math.exp(one) for one in others) / len(others))


def tss_pp(own: float, others: list[float], hardest: int, tau: float, lam: float) -> float:
    hard = sorted(others, reverse=True)[:hardest]
    return (1 + lam) * own - tau * math.log(sum(math.exp(one / tau) for one in hard) / len(hard))


def select(rows: list[dict], budget: int) -> list[str]:
    """Ids of the longest prefix by (score descending, id) whose cost fits; rows without a score are never taken."""
    taken = []
    for row in sorted((row for row in rows if row["score"] is not None), key=lambda row: (-row["score"], row["id"])):
        if row["cost"] > budget:
            break
        budget -= row["cost"]
        taken.append(row["id"])
    return taken


def cap(rows: list[dict], column: str, n: int) -> list[dict]:
    """The rows left when each group keeps its n best."""
    kept, seen = [], {}
    for row in sorted((row for row in rows if row["score"] is not None), key=lambda row: (-row["score"], row["id"])):
        seen[row[column]] = seen.get(row[column], 0) + 1
        if seen[row[column]] <= n:
            kept.append(row)
    return kept
