"""Jinja with an account: what a template of unknown origin may do in one rendering is counted, and ends at a limit.

Jinja's own sandbox keeps templates away from Python, and not from time and memory: it allows nested loops, macros that call
themselves and `"x" * 10**9`. Here every loop step, call, operation and piece of text is charged to the rendering, before the
work is done where it could be large. A template of plain text, variables, conditions and case filters cannot do much work, so
it is recognised in its syntax tree and runs without the account.

Filters are those of `FILTERS`, with Jinja's meaning; what gives one element after another gives a list at once. Globals are
`range`, `dict` and `namespace`. Methods are those of `METHODS`, which format, pad and encode nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 1 << 20  # characters of a template
MAX_TEXT = 1 << 25  # characters of a rendered text
# One rendering may handle so many characters and items, and so many more for each character of its row and its template.
WORK, WORK_PER_CHARACTER = 1 << 24, 16
_STEP = 16  # what a loop step, a call or an operation costs beside the text that it handles
_ITEM = 4  # an item of a list beside its text
_SCANNED = 16  # comparing a character costs this many times less than making one
_MAX_BITS = 1 << 16  # of a number: arithmetic on longer ones takes longer than their length says

_FILTER_NAMES = (
    "abs capitalize count d default dictsort e escape first float indent int items join last length list lower map max min "
    "reject rejectattr replace reverse safe select selectattr sort string title tojson trim truncate unique upper urlencode "
    "wordcount"
)
FILTERS = tuple(_FILTER_NAMES.split())
_CHEAP_FILTERS = {"count", "d", "default", "first", "last", "length"}  # look at no more than one item
_TEXT_METHODS = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
    "isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip swapcase title upper"
)
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}
# Methods that compare each character with each of their argument's in the worst case.
_PRODUCT = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}
_COMPARING_TEST_NAMES = "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper"
_COMPARING_TESTS = frozenset(_COMPARING_TEST_NAMES.split())

_PLAIN_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.Not,
    nodes.And,
    nodes.Or,
    nodes.CondExpr,
)
_PLAIN_FILTERS = {"capitalize", "lower", "title", "trim", "upper"}
_PLAIN_TESTS = {"defined", "none", "string", "undefined"}
_MOST_PLAIN_NODES = 1000
_GROWTH_OF_CASE = 3  # characters that one character may have in another case

_left: ContextVar[list[int]] = ContextVar("left")


class WorkLimit(SecurityError):
    """A rendering that would do more than the limit."""


def compile_bounded(text: str) -> Callable[[str, str], str]:
    """A function that renders Jinja source `text` with the variables `instruction` and `input`.

    Compiling and rendering raise whatever Jinja raises, and WorkLimit where a rendering is over its limit.
    """
    counted = compile_counted(BoundedEnvironment(), text)
    plain_environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
    tree = plain_environment.parse(text)
    places = _plain_places(tree)
    plain = plain_environment.from_string(tree) if places else None

    def render(instruction: str, input: str) -> str:
        size = len(instruction) + len(input)
        if plain is not None and size * places + len(text) <= MAX_TEXT:
            return plain.render(instruction=instruction, input=input)
        return counted({"instruction": instruction, "input": input}, size)

    return render


def compile_counted(environment: BoundedEnvironment, text: str) -> Callable[[Mapping[str, Any], int], str]:
    """A function that renders Jinja source `text` with variables that hold so many characters, under an account.

    Compiling and rendering raise whatever Jinja raises, and WorkLimit where a rendering is over its limit.
    """
    if len(text) > MAX_SOURCE:
        raise WorkLimit(f"{len(text)} characters of template, at most {MAX_SOURCE}")
    tree = _Charged().visit(environment.parse(text))
    tree.set_environment(environment)
    template = environment.from_string(tree)
    return lambda variables, size: _with_account(template, variables, WORK + WORK_PER_CHARACTER * (size + len(text)))


def _plain_places(tree: nodes.Template) -> int:
    """How many times its variables' length a template's text may have beside its own; 0 where it needs an account."""
    found = list(tree.find_all(nodes.Node))
    if len(found) > _MOST_PLAIN_NODES or not all(map(_is_plain, found)):
        return 0
    return _GROWTH_OF_CASE * sum(len(one.nodes) for one in found if isinstance(one, nodes.Output))


def _is_plain(node: nodes.Node) -> bool:
    match node:
        case nodes.Name() | nodes.Const() | nodes.Compare() | nodes.Operand():
            return True
        case nodes.Filter(name=name):
            return name in _PLAIN_FILTERS and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
        case nodes.Test(name=name):
            return name in _PLAIN_TESTS
    return isinstance(node, _PLAIN_NODES)


def _with_account(template: Template, variables: Mapping[str, Any], work: int) -> str:
    token = _left.set([work])
    try:
        text = template.render(variables)
    finally:
        _left.reset(token)
    if len(text) > MAX_TEXT:
        raise WorkLimit(f"{len(text)} characters of text, at most {MAX_TEXT}")
    return text


def spend(amount: int) -> None:
    """Charge the rendering; raises WorkLimit where its account is empty."""
    # Outside of a rendering, when Jinja folds constants, there is no account: the LookupError leaves the work to renderings.
    left = _left.get()
    left[0] -= amount
    if left[0] < 0:
        raise WorkLimit("it loops, calls or repeats text beyond the limit of one rendering")


def _size(value: Any) -> int:
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


def _scan(value: Any) -> int:
    """What it costs to compare a value once."""
    return 1 + len(value) // _SCANNED if isinstance(value, (str, bytes)) else _size(value)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 1


def _at_once(value: Any) -> Any:
    """An iterator as a list, so that no chain of them grows and what it holds can be counted; anything else as it is."""
    if not isinstance(value, Iterator):
        return value
    items = []
    while more := list(islice(value, 1000)):
        spend(len(more))
        items += more
    return items


def _small(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise WorkLimit(f"a number of more than {_MAX_BITS} bits")
    return value


def _replaced(text: str, old: str, new: str, count: int | None = -1, /) -> int:
    """Length of a text after a replacement."""
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    return len(text) + times * max(0, len(new) - len(old))


@pass_context
def _made(context: Context, value: Any) -> Any:
    """The value, charged as text that is made of it."""
    spend(_size(value))
    return value


@pass_context
def _scanned(context: Context, value: Any) -> Any:
    """The value, charged as text that is compared."""
    spend(_scan(value))
    return value


@pass_context
def _sliced(context: Context, value: Any) -> Any:
    """The value, charged as a copy of a text or list."""
    spend(_length(value))
    return value


@pass_context
def _steps(context: Context | None, value: Any) -> Any:
    """The value, charged as what a loop goes over."""
    value = _at_once(value)
    spend(_STEP * (1 + (len(value) if hasattr(value, "__len__") else 0)))
    return value


_CHARGES = {"made": _made, "scanned": _scanned, "sliced": _sliced, "steps": _steps}


class _Charged(NodeTransformer):
    """Puts the charges that the environment cannot make by itself into a syntax tree, as filters."""

    def _charge(self, how: str, node: nodes.Node) -> nodes.Filter:
        return nodes.Filter(node, f" {how}", [], [], None, None, lineno=node.lineno)  # no template can write this name

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            self._charge(
                "made", nodes.Const(one.data, lineno=one.lineno) if isinstance(one, nodes.TemplateData) else one
            )
            for one in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._charge("made", one) for one in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._charge("scanned", node.expr)
        for operand in node.ops:
            operand.expr = self._charge("scanned", operand.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if node.name in _COMPARING_TESTS:
            node.node = self._charge("scanned", node.node)
            node.args = [self._charge("scanned", one) for one in node.args]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return self._charge("sliced", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._charge("steps", node.iter)
        return node


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox and an account; with default white-space settings and the trailing newline kept, unless
    `settings` of Jinja's environment say otherwise."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{"keep_trailing_newline": True, "undefined": StrictUndefined, "autoescape": False, **settings}
        )
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.filters = {name: counted_filter(name, self.filters[name]) for name in FILTERS}
        self.filters |= {f" {name}": charge for name, charge in _CHARGES.items()}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See `SandboxedEnvironment.call_binop`; raises WorkLimit."""
        size = _length(_small(left)) + _length(_small(right))
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(sequence, (str, bytes, list, tuple)):
                    size += len(sequence) * max(0, times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > _MAX_BITS:
                raise WorkLimit(f"a number of more than {_MAX_BITS} bits")
        elif operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("% does not format text here; ~ joins texts")
        spend(_STEP + size)
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """See `SandboxedEnvironment.call`; raises WorkLimit, and SecurityError for what is not in METHODS."""
        args = tuple(map(_at_once, args))
        if isinstance(__obj, LoopContext) and args:
            args = (_steps(None, args[0]), *args[1:])
        elif isinstance(__obj, (BuiltinMethodType, MethodType)):
            spend(_cost_of_method(__obj.__self__, __obj.__name__, args))
        elif not isinstance(__obj, (Macro, LoopContext, BlockReference, Undefined)) and not any(
            __obj is one for one in self.globals.values()
        ):
            raise SecurityError(f"calls of {getattr(__obj, '__name__', type(__obj).__name__)!r} are not accepted")
        spend(_STEP)
        result = super().call(__context, __obj, *args, **kwargs)
        spend(_length(result))
        return result


def _cost_of_method(owner: Any, name: str, args: tuple) -> int:
    """What a method's work and result may amount to; raises SecurityError where it is not in METHODS."""
    if not any(isinstance(owner, kind) and name in accepted for kind, accepted in METHODS.items()):
        raise SecurityError(f"calls of {name!r} are not accepted")
    if not isinstance(owner, str):
        return sum(map(_size, (*args, owner))) if name in {"changed", "count", "index"} else _length(owner)
    if name == "join":
        return len(owner) * max(map(_length, args), default=0) + sum(map(_size, args))
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        return _replaced(owner, *args[:3])
    if name in _PRODUCT and args:
        return len(owner) * (1 + _length(args[0]) // _SCANNED)
    return len(owner) + sum(map(_length, args))


def counted_filter(name: str, function: Callable) -> Callable:
    """A filter of Jinja's that is charged for its arguments, for what it might grow to, and for its result."""

    @functools.wraps(function)  # with Jinja's marks of what else it wants to be passed
    def counted(*args: Any, **kwargs: Any) -> Any:
        start = 1 if hasattr(function, "jinja_pass_arg") else 0
        args = (*args[:start], *map(_at_once, args[start:]))
        spend(_STEP)
        if name not in _CHEAP_FILTERS:
            spend(sum(map(_size, args[start:])) + sum(map(_size, kwargs.values())))
        spend(_GROWTH[name](*args[start:], **kwargs) if name in _GROWTH else 0)
        result = _small(_at_once(function(*args, **kwargs)))
        spend(_length(result))
        return result

    return counted


def _grown_by_replace(s: Any, old: Any = "", new: Any = "", count: int | None = None) -> int:
    return _replaced(str(s), str(old), str(new), count)


def _items(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _path(attribute: Any) -> int:
    """What it costs to follow an attribute's path, or several, from one item."""
    return _STEP * (1 + attribute.count(".") + attribute.count(",")) if isinstance(attribute, str) else 0


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
    return len(str(value)) * (_length(chars) // _SCANNED)


def _grown_by_each(value: Any, *args: Any, attribute: Any = None, **kwargs: Any) -> int:
    return _items(value) * (_STEP + sum(map(_scan, args)) + _path(attribute))


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
