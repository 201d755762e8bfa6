"""What work a rendering may do: an account that every step, call and piece of text of a template is charged to, and what
methods and filters of Jinja's cost, told before the work is done where it could be large."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.utils import Namespace

STEP = 16  # what a loop step, a call or an operation costs beside the text that it handles
_ITEM = 4  # an item of a list beside its text
_SCANNED = 16  # comparing a character costs this many times less than making one
MAX_BITS = 1 << 16  # of a number: arithmetic on longer ones takes longer than their length says
_CHEAP_FILTERS = {"count", "d", "default", "first", "last", "length"}  # look at no more than one item
_TEXT_METHODS = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
    "isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip swapcase title upper"
)
# They format, pad and encode nothing.
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
# Methods that compare each character with each of their argument's in the worst case.
_PRODUCT = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}

_left: ContextVar[list[int]] = ContextVar("left")


class WorkLimit(SecurityError):
    """A rendering that would do more than the limit."""


@contextmanager
def account(work: int) -> Iterator[None]:
    """What is charged inside may come to `work` in all."""
    token = _left.set([work])
    try:
        yield
    finally:
        _left.reset(token)


def spend(amount: int) -> None:
    """Charge the rendering; raises WorkLimit where its account is empty."""
    # Outside of a rendering, when Jinja folds constants, there is no account: the LookupError leaves the work to renderings.
    left = _left.get()
    left[0] -= amount
    if left[0] < 0:
        raise WorkLimit("it loops, calls or repeats text beyond the limit of one rendering")


def size_of(value: Any) -> int:
    """Characters and items in a value and all that it holds, an item as often as it is held; no further than the account."""
    most, total, waiting = _left.get()[0], 0, [value]
    while waiting and total <= most:
        one = waiting.pop()
        total += _ITEM
        if isinstance(one, (str, bytes)):
            total += len(one)
        elif isinstance(one, int):
            total += one.bit_length() // 8
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, Namespace):
            waiting.append(one._Namespace__attrs)  # its text shows them all, and there is no public way to them
    return total


def scan_of(value: Any) -> int:
    """What it costs to compare a value once."""
    return 1 + len(value) // _SCANNED if isinstance(value, (str, bytes)) else size_of(value)


def length_of(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 1


def at_once(value: Any) -> Any:
    """An iterator as a list, so that no chain of them grows and what it holds can be counted; anything else as it is."""
    if not isinstance(value, Iterator):
        return value
    items = []
    while more := list(islice(value, 1000)):
        spend(len(more))
        items += more
    return items


def small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise WorkLimit(f"a number of more than {MAX_BITS} bits")
    return value


def _replaced(text: str, old: str, new: str, count: int | None = -1, /) -> int:
    """Length of a text after a replacement."""
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    return len(text) + times * max(0, len(new) - len(old))


def cost_of_method(owner: Any, name: str, args: tuple) -> int:
    """What a method's work and result may amount to; raises SecurityError where it is not in METHODS."""
    if not any(isinstance(owner, kind) and name in accepted for kind, accepted in METHODS.items()):
        raise SecurityError(f"calls of {name!r} are not accepted")
    if not isinstance(owner, str):
        return sum(map(size_of, (*args, owner))) if name in {"changed", "count", "index"} else length_of(owner)
    if name == "join":
        return len(owner) * max(map(length_of, args), default=0) + sum(map(size_of, args))
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        return _replaced(owner, *args[:3])
    if name in _PRODUCT and args:
        return len(owner) * (1 + length_of(args[0]) // _SCANNED)
    return len(owner) + sum(map(length_of, args))


def counted_filter(name: str, function: Callable) -> Callable:
    """A filter of Jinja's that is charged for its arguments, for what it might grow to, and for its result."""

    @functools.wraps(function)  # with Jinja's marks of what else it wants to be passed
    def counted(*args: Any, **kwargs: Any) -> Any:
        start = 1 if hasattr(function, "jinja_pass_arg") else 0
        args = (*args[:start], *map(at_once, args[start:]))
        spend(STEP)
        if name not in _CHEAP_FILTERS:
            spend(sum(map(size_of, args[start:])) + sum(map(size_of, kwargs.values())))
        spend(_GROWTH[name](*args[start:], **kwargs) if name in _GROWTH else 0)
        result = small(at_once(function(*args, **kwargs)))
        spend(length_of(result))
        return result

    return counted


def _grown_by_replace(s: Any, old: Any = "", new: Any = "", count: int | None = None) -> int:
    return _replaced(str(s), str(old), str(new), count)


def _items(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _path(attribute: Any) -> int:
    """What it costs to follow an attribute's path, or several, from one item."""
    return STEP * (1 + attribute.count(".") + attribute.count(",")) if isinstance(attribute, str) else 0


def _grown_by_join(value: Any, d: Any = "", attribute: Any = None) -> int:
    return _items(value) * (len(str(d)) + _path(attribute))


def _grown_by_indent(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> int:
    text = str(s)
    return (len(width) if isinstance(width, str) else max(0, int(width))) * (1 + len(text.splitlines()))


def _grown_by_json(value: Any, indent: None = None) -> int:
    if indent is not None:
        raise SecurityError("tojson does not indent here")
    return 0


def _grown_by_trim(value: Any, chars: Any = None) -> int:
    return len(str(value)) * (length_of(chars) // _SCANNED)


def _grown_by_each(value: Any, *args: Any, attribute: Any = None, **kwargs: Any) -> int:
    return _items(value) * (STEP + sum(map(scan_of, args)) + _path(attribute))


def _grown_by_each_attribute(value: Any, attribute: Any = "", *args: Any) -> int:
    return _grown_by_each(value, *args, attribute=attribute)


def _grown_by_order(value: Any, *args: Any, **kwargs: Any) -> int:
    return _items(value) * sum(map(_path, (*args, *kwargs.values())))


_GROWTH: dict[str, Callable[..., int]] = {
    "replace": _grown_by_replace,
    "join": _grown_by_join,
    "indent": _grown_by_indent,
    "tojson": _grown_by_json,
    "trim": _grown_by_trim,
    **dict.fromkeys(("map", "reject", "select"), _grown_by_each),
    **dict.fromkeys(("rejectattr", "selectattr"), _grown_by_each_attribute),
    **dict.fromkeys(("max", "min", "sort", "unique"), _grown_by_order),
}
