"""Jinja with an account: what a template of unknown origin may do in one rendering is counted, and ends at a limit.

Jinja's own sandbox keeps templates away from Python, and not from time and memory: it allows nested loops, macros that call
themselves and `"x" * 10**9`. Here every loop step, call, operation and piece of text is charged to the rendering, before the
work is done where it could be large. A template of plain text, variables, conditions and case filters cannot do much work, so
it is recognised in its syntax tree and runs without the account.

Filters are those of `FILTERS`, with Jinja's meaning; what gives one element after another gives a list at once. Globals are
`range`, `dict` and `namespace`. Methods are those of `METHODS`. What each costs is said in `sandbox_account`.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Template, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from operators.prompts.sandbox_account import (
    MAX_BITS,
    STEP,
    WorkLimit,
    account,
    at_once,
    cost_of_method,
    counted_filter,
    length_of,
    scan_of,
    size_of,
    small,
    spend,
)

MAX_SOURCE = 1 << 20  # characters of a template
MAX_TEXT = 1 << 25  # characters of a rendered text
# One rendering may handle so many characters and items, and so many more for each character of its row and its template.
WORK, WORK_PER_CHARACTER = 1 << 24, 16

_FILTER_NAMES = (
    "abs capitalize count d default dictsort e escape first float indent int items join last length list lower map max min "
    "reject rejectattr replace reverse safe select selectattr sort string title tojson trim truncate unique upper urlencode "
    "wordcount"
)
FILTERS = tuple(_FILTER_NAMES.split())
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
    return lambda variables, size: _within(WORK + WORK_PER_CHARACTER * (size + len(text)), template, variables)


def _within(work: int, template: Template, variables: Mapping[str, Any]) -> str:
    with account(work):
        text = template.render(variables)
    if len(text) > MAX_TEXT:
        raise WorkLimit(f"{len(text)} characters of text, at most {MAX_TEXT}")
    return text


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


@pass_context
def _made(context: Context, value: Any) -> Any:
    """The value, charged as text that is made of it."""
    spend(size_of(value))
    return value


@pass_context
def _scanned(context: Context, value: Any) -> Any:
    """The value, charged as text that is compared."""
    spend(scan_of(value))
    return value


@pass_context
def _sliced(context: Context, value: Any) -> Any:
    """The value, charged as a copy of a text or list."""
    spend(length_of(value))
    return value


@pass_context
def _steps(context: Context | None, value: Any) -> Any:
    """The value, charged as what a loop goes over."""
    value = at_once(value)
    spend(STEP * (1 + (len(value) if hasattr(value, "__len__") else 0)))
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
        size = length_of(small(left)) + length_of(small(right))
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(sequence, (str, bytes, list, tuple)):
                    size += len(sequence) * max(0, times)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > MAX_BITS:
                raise WorkLimit(f"a number of more than {MAX_BITS} bits")
        elif operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("% does not format text here; ~ joins texts")
        spend(STEP + size)
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """See `SandboxedEnvironment.call`; raises WorkLimit, and SecurityError for what is not in METHODS."""
        args = tuple(map(at_once, args))
        if isinstance(__obj, LoopContext) and args:
            args = (_steps(None, args[0]), *args[1:])
        elif isinstance(__obj, (BuiltinMethodType, MethodType)):
            spend(cost_of_method(__obj.__self__, __obj.__name__, args))
        elif not isinstance(__obj, (Macro, LoopContext, BlockReference, Undefined)) and not any(
            __obj is one for one in self.globals.values()
        ):
            raise SecurityError(f"calls of {getattr(__obj, '__name__', type(__obj).__name__)!r} are not accepted")
        spend(STEP)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (KeysView, ValuesView, ItemsView)):
            result = list(result)  # whose content is counted wherever it is shown or compared
        spend(length_of(result))
        return result
