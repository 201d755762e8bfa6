"""An order of instructions in which those that share prompts stand near each other, so that their work is shared.

The rows of an instruction ask for prompts of that instruction and of its alternatives. What rows of one scoring block ask for
together is computed once, so the fewer different prompts a block has, the better.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np

_LEAF = 8  # a group this small is put in order by its last direction and split no further
_STEPS = 8  # power iterations towards the direction in which a group is longest


def neighbourhood_order(embeddings_PD: np.ndarray) -> np.ndarray:
    """Int64 [P]: a permutation of the rows in which neighbours in meaning are near, by halving along the direction of greatest
    spread, again and again.

    Ties keep the order of the rows. Cost: about P D log2(P) steps of power iteration.
    """
    ordered: list[np.ndarray] = []
    groups = [np.arange(len(embeddings_PD))]
    while groups:
        rows = groups.pop()
        if len(rows) > 1:
            rows = rows[np.argsort(_along_spread(embeddings_PD[rows].astype(np.float64)), kind="stable")]
        if len(rows) <= _LEAF:
            ordered.append(rows)
            continue
        middle = len(rows) // 2
        groups += [rows[middle:], rows[:middle]]
    return np.concatenate(ordered) if ordered else np.zeros(0, dtype=np.int64)


def shared_order(
    base_P: np.ndarray, prompts: list[np.ndarray], costs_P: np.ndarray, width: int, begin: int = 0
) -> np.ndarray:
    """Int64 [P]: a permutation of instructions, grown block by block.

    `prompts[i]`: whole numbers that name all prompts that instruction i's rows ask for, without repetition. `costs_P`: tokens
    of its rows; a block is `width` of them, and `begin` of the first are spent before. A block begins with the first
    instruction in the order `base_P` that has no place yet; the next is always the instruction that has the most prompts in the
    block already, and of several the one that got them last. About P K log(P K) steps of Python for K prompts an instruction.
    """
    users: dict[int, list[int]] = defaultdict(list)
    for instruction, rows in enumerate(prompts):
        for prompt in rows.tolist():
            users[prompt].append(instruction)
    unplaced = np.ones(len(prompts), dtype=bool)
    next_base, cost, block = 0, begin, begin // max(1, width)
    order: list[int] = []
    inside: set[int] = set()
    common: dict[int, int] = {}  # prompts that an instruction left over has in common with the block
    waiting: list[tuple[int, int, int]] = []
    while len(order) < len(prompts):
        chosen = -1
        while waiting and chosen < 0:
            count, _, candidate = heapq.heappop(waiting)
            chosen = candidate if unplaced[candidate] and common[candidate] == -count else -1
        while chosen < 0:
            chosen = int(base_P[next_base]) if unplaced[base_P[next_base]] else -1
            next_base += 1
        unplaced[chosen] = False
        order.append(chosen)
        cost += int(costs_P[chosen])
        if cost // max(1, width) > block:
            block, inside, common, waiting = cost // max(1, width), set(), {}, []
            continue
        for prompt in prompts[chosen].tolist():
            if prompt not in inside:
                inside.add(prompt)
                for user in users[prompt]:
                    if unplaced[user]:
                        common[user] = common.get(user, 0) + 1
                        heapq.heappush(waiting, (-common[user], -len(order), user))
    return np.array(order, dtype=np.int64)


def _along_spread(points_ND: np.ndarray) -> np.ndarray:
    """Float64 [N]: where each point lies along (nearly) the first principal direction."""
    centred = points_ND - points_ND.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(_STEPS):
        length = np.linalg.norm(direction)
        if length == 0:
            break
        direction = centred.T @ (centred @ (direction / length))
    return np.asarray(centred @ direction)
