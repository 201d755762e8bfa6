"""The slow twins: each fast path of the project once more, in the plainest way, sharing no code with it."""

from __future__ import annotations

import math
import statistics
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
    """The first k instructions that pass the rules, walking the whole pool; and the paraphrases passed over.

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


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def tss(own: float, others: list[float]) -> float:
    """Eq. 1, of sums."""
    return own - (log_sum_exp(others) - math.log(len(others)))


def tss_nce(own: float, others: list[float], hardest: int, tau: float) -> float:
    """Eq. 2, of means: the log-probability of the true instruction in a softmax over it and the hardest."""
    hard = sorted(others, reverse=True)[:hardest]
    return own / tau - log_sum_exp([value / tau for value in [own, *hard]])


def tss_pp(own: float, others: list[float], hardest: int, tau: float, alpha: float) -> float:
    """Eq. 3."""
    return tss_nce(own, others, hardest, tau) + alpha * own


def weights(scores: list[float | None], scale: float, clip: float) -> list[float | None]:
    """min(exp(scale x), clip), divided by their mean; for scores whose weights no float loses."""
    plain = [None if score is None else min(math.exp(scale * score), clip) for score in scores]
    known = [weight for weight in plain if weight is not None]
    return [None if weight is None else weight * len(known) / math.fsum(known) for weight in plain]


def key(score: float, uniform: float, temperature: float) -> float:
    """By what a draw at a temperature ranks."""
    if temperature == 0:
        return score
    gumbel = -math.log(-math.log(uniform))
    return gumbel if temperature == math.inf else score / temperature + gumbel


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


def distinct_prefixes(sequences: list[list[int]]) -> int:
    """How many different beginnings the sequences have: the tokens that must be computed once."""
    return len({tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))})


def tree_attention(q, k, v, start, stop, parent, scale: float, window: int | None, softcap=None, sinks=None):
    """Attention of every token to those of its own segment up to itself and of all segments above, one token at a time.

    q [T, H, D], k and v [T, G, D]: segments stand side by side and hold positions start[s] .. stop[s] - 1. A sink is the score
    of one more key, of no value, for each head.
    """
    first, places = [], []
    for low, high in zip(start, stop, strict=True):
        first.append(len(places))
        places += range(low, high)
    out = torch.zeros_like(q)
    for segment, (low, high) in enumerate(zip(start, stop, strict=True)):
        above, seen = parent[segment], []
        while above >= 0:
            seen += range(first[above], first[above] + stop[above] - start[above])
            above = parent[above]
        for place in range(first[segment], first[segment] + high - low):
            keys = [*seen, *range(first[segment], place + 1)]
            keys = [one for one in keys if window is None or places[place] - places[one] < window]
            for head in range(q.shape[1]):
                group = head * k.shape[1] // q.shape[1]
                scores = scale * (k[keys, group] @ q[place, head])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks[head : head + 1]])
                out[place, head] = torch.softmax(scores, dim=0)[: len(keys)] @ v[keys, group]
    return out


def varlen_attention(
    q, k, v, edges_q, edges_k, max_q, max_k, *, scale, window_size, return_aux, enable_gqa=False
):  # the signature of torch.nn.attention.varlen.varlen_attn
    """Variable-length attention group by group, with its log-sum-exps [H, T] as the kernels of GPUs give them."""
    assert max_q == max(edges_q.diff()) and max_k == max(edges_k.diff()) and return_aux.lse
    assert enable_gqa == (q.shape[1] != k.shape[1])
    out, lse = torch.zeros_like(q), torch.zeros(q.shape[1], q.shape[0])
    for group in range(len(edges_q) - 1):
        mine, keys = slice(edges_q[group], edges_q[group + 1]), slice(edges_k[group], edges_k[group + 1])
        for head in range(q.shape[1]):
            shared = head * k.shape[1] // q.shape[1]
            scores = scale * (q[mine, head] @ k[keys, shared].T)
            if window_size == (-1, 0):
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            out[mine, head] = scores.softmax(-1) @ v[keys, shared]
            lse[head, mine] = scores.logsumexp(-1)
    return out, lse


def auroc(positive: list[float], negative: list[float]) -> float:
    """How often a positive value is above a negative one, over all pairs; a tie counts half."""
    wins = sum((one > other) + 0.5 * (one == other) for one in positive for other in negative)
    return wins / (len(positive) * len(negative))


def random_of(one: str, seed: int) -> float:
    """A number in (0, 1) of an id and a seed, in Python's integers: SplitMix64's mixing, once for each half of the id."""

    def mix(word):
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
        return word ^ (word >> 31)

    key = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    return max(2**-54, (mix(mix(int(one[:16], 16) ^ key) ^ int(one[16:], 16)) >> 11) / 2**53)


def recalled(stored, asked):
    """(block, pair, sum) for each pair that is stored (group, pair, run, sum) under a group that a block asks for (group,
    block); of several runs the newest counts."""
    found = []
    for group, block in asked:
        newest = {}
        for one, pair, _, total in sorted(stored, key=lambda row: row[2]):
            if one == group:
                newest[pair] = total
        found += [(block, pair, total) for pair, total in newest.items()]
    return found


def changes(before, now):
    """What happened to ids with their ranks."""
    stayed = set(before) & set(now)
    return {
        "entered": len(set(now) - stayed),
        "left": len(set(before) - stayed),
        "stayed": len(stayed),
        "moved": sum(before[one] != now[one] for one in stayed),
    }


def select_conversations(rows: list[dict], budget: int, how: str = "mean", most: tuple[str, int] | None = None) -> list:
    """Ids of the rows of the longest prefix of conversations that fits, in turn order within each; `most` names a column, of
    which each value keeps so many conversations by their first turns. Rows have a score (None: it may not be taken)."""
    whole: dict[str, list[dict]] = {}
    for row in rows:
        whole.setdefault(row["conversation"] or row["id"], []).append(row)
    units = []
    for name, turns in whole.items():
        turns.sort(key=lambda row: row["turn"] or 0)
        scores = [row["score"] for row in turns]
        if None not in scores:
            score = min(scores) if how == "min" else statistics.fmean(scores)
            first = turns[0][most[0]] if most else None
            cost = sum(row["cost"] for row in turns)
            units.append({"id": name, "score": score, "cost": cost, "first": first})
    if most:
        units = cap(units, "first", most[1])
    return [row["id"] for name in select(units, budget) for row in whole[name]]


def shingles(text: str) -> set[str]:
    """All stretches of five characters of a folded text; of a shorter one, itself."""
    folded = " ".join(unicodedata.normalize("NFC", text.casefold()).split())
    return {folded[i : i + 5] for i in range(max(1, len(folded) - 4))} if folded else set()


def similarity(row: dict, other: dict) -> float:
    """The lowest of the Jaccard indices of prompts, of outputs and, where both have one, of inputs."""
    indices = []
    with_input = shingles(row["input"]) and shingles(other["input"])
    for texts in (("instruction", "input"), ("output",), *([("input",)] if with_input else [])):
        some, others = (shingles("\n".join(one[name] for name in texts)) for one in (row, other))
        indices.append(len(some & others) / len(some | others) if some | others else 1.0)
    return min(indices)


def near_duplicates(rows: list[dict], threshold: float) -> dict[str, tuple[str, float]]:
    """(id of the row that stays, similarity) of each row that goes: every row against all that stay, in the order of ranks."""
    ranked = sorted(
        rows,
        key=lambda row: (row["input_index"], -sum(len(row[n]) for n in ("instruction", "input", "output")), row["id"]),
    )
    stay, gone = [], {}
    for row in ranked:
        close = [(similarity(one, row), one["id"]) for one in stay]
        close = [pair for pair in close if pair[0] >= threshold]
        if close:
            best = max(pair[0] for pair in close)
            gone[row["id"]] = next((name, value) for value, name in close if value == best)
        else:
            stay.append(row)
    return gone


def words(text: str) -> list[str]:
    """Words between anything that is neither letter, digit nor mark."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split()


def shared_ngram(texts: list[str], excluded: list[str], length: int) -> bool:
    """Whether some text holds `length` words in a row that an excluded text holds."""
    grams = {tuple(words(one)[i : i + length]) for one in excluded for i in range(len(words(one)) - length + 1)}
    return any(tuple(words(one)[i : i + length]) in grams for one in texts for i in range(len(words(one)) - length + 1))
