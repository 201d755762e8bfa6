"""Work on many items that fails because of some of them: the others are worked on all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def halve(
    items: Sequence[Item],
    attempt: Callable[[Sequence[Item]], Result],
    alone: Callable[[Item, Exception], Result],
    excuse: Callable[[Exception], None] = lambda error: None,
) -> list[Result]:
    """Results of stretches of `items`, in order, which together hold every item once; none for no items.

    A stretch on which `attempt` raises is attempted in halves, and these again, down to an item by itself: that goes to `alone`
    with what was raised. `excuse` is shown every exception first, and raises (the same or another) where it is not the items
    that are to blame: this ends the work. Stretches are slices: of a range they are ranges.
    """
    if not len(items):
        return []
    try:
        return [attempt(items)]
    except Exception as error:  # noqa: BLE001 - whatever an item makes it raise
        excuse(error)
        if len(items) == 1:
            return [alone(items[0], error)]
    # Outside of the handler: the exception would keep alive all that the failed attempt held.
    middle = len(items) // 2
    return [
        *halve(items[:middle], attempt, alone, excuse),
        *halve(items[middle:], attempt, alone, excuse),
    ]
