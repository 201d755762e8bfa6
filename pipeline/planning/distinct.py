"""How many distinct things a corpus has, from the groups of neighbours of a sample in which each was seen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Distinct:
    """An estimate with its bounds; equal ones where everything was seen."""

    value: float
    low: float
    high: float


def distinct_of(things: Sequence[Hashable], groups: Sequence[int], all_groups: float, all_things: float) -> Distinct:
    """The distinct things of a corpus of `all_groups` groups and `all_things` things, of which a sample has `things`, each in a
    group of neighbours.

    Neighbours in a file resemble each other, so what is counted is in how many groups a thing was seen, not how often. From the
    numbers of those that were seen in one group and in two follows Chao's estimate for a sample without replacement of how many
    were not seen (Chao and Lin 2012): right for things that are alike frequent, and where no two are the same; too low for a
    mixture. `low` is the same with more things in two groups than there were, by three standard deviations. `high` takes each
    thing that was seen in one group for as many others as groups were not looked into (after Charikar et al. 2000).
    """
    places: dict[Hashable, set[int]] = defaultdict(set)
    for thing, group in zip(things, groups, strict=True):
        places[thing].add(group)
    seen, looked = len(places), len(set(groups))
    if looked >= all_groups or not seen:
        return Distinct(seen, seen, seen)
    once = sum(len(seen_in) == 1 for seen_in in places.values())
    twice = sum(len(seen_in) == 2 for seen_in in places.values())
    share = looked / all_groups
    high = min(all_things, seen - once + once / share)
    value = min(high, seen + _unseen(once, twice, looked, share))
    low = min(value, seen + _unseen(once, twice + 3 * math.sqrt(twice + 1), looked, share))
    return Distinct(value, low, high)


def _unseen(once: float, twice: float, looked: int, share: float) -> float:
    """Things that are not in the groups that were looked into, a `share` of all."""
    if not once:
        return 0.0
    return float(once**2 / (2 * twice * looked / max(1, looked - 1) + share / (1 - share) * once))
