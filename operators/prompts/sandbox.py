"""Jinja in its immutable sandbox: what compiles a template over `instruction` and `input`, and which templates are plain.

The sandbox keeps a template away from Python, and not from time and memory: it allows nested loops, macros that call themselves
and `"x" * 10**9`. A plain template, which only shows texts and asks conditions, cannot do much work, and its syntax tree says
so. Any other is rendered by `render_process`, under limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from jinja2 import StrictUndefined, Template, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Render(Protocol):
    """From a row to its prompt's text. `turns` are those of a conversation, which a chat template alone renders as turns."""

    def __call__(self, instruction: str, input: str, turns: str | None = None, /) -> str: ...


MAX_SOURCE = 1 << 20  # characters of a template
MAX_TEXT = 1 << 25  # characters of a rendered text

_PLAIN_NODES = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.Not,
    nodes.And,
    nodes.Or,
    nodes.CondExpr,
    nodes.Name,
    nodes.Const,
    nodes.Compare,
    nodes.Operand,
)
_PLAIN_FILTERS = {"capitalize", "lower", "title", "trim", "upper"}
_PLAIN_TESTS = {"defined", "none", "string", "undefined"}
_MOST_PLAIN_NODES, _MOST_PLAIN_TEXT = 1000, 1 << 16


def compile_jinja(text: str) -> Render:
    """What renders Jinja source `text` with the variables `instruction` and `input`, default white-space settings and the
    trailing newline kept. Compiling and rendering raise whatever Jinja raises; ValueError for a source or text too long."""
    if len(text) > MAX_SOURCE:
        raise ValueError(f"it has {len(text):,} characters of template; accepted: at most {MAX_SOURCE:,}")
    environment = _environment()
    # A row has the same prompt whenever it is rendered.
    del environment.filters["random"], environment.globals["lipsum"]
    template = environment.from_string(text)
    return lambda instruction, input, *_: text_of(template, {"instruction": instruction, "input": input})


def text_of(template: Template, variables: Mapping[str, Any]) -> str:
    """A rendered text, given up with a ValueError as soon as it has more than MAX_TEXT characters."""
    pieces, size = [], 0
    for piece in template.generate(variables):
        size += len(piece)
        if size > MAX_TEXT:
            raise ValueError(f"it renders more than {MAX_TEXT} characters of text for one row")
        pieces.append(piece)
    return "".join(pieces)


def is_plain(text: str) -> bool:
    """Whether a template's work is bounded by the length of its source and of its row: it repeats, calls and builds nothing."""
    if len(text) > _MOST_PLAIN_TEXT:
        return False
    try:
        parts = list(_environment().parse(text).find_all(nodes.Node))
    except Exception:  # noqa: BLE001 - whatever it is, compiling says it again, under limits
        return False
    return len(parts) <= _MOST_PLAIN_NODES and all(map(_is_plain_node, parts))


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)


def _is_plain_node(node: nodes.Node) -> bool:
    match node:
        case nodes.Filter(name=name):
            return name in _PLAIN_FILTERS and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
        case nodes.Test(name=name):
            return name in _PLAIN_TESTS
    return isinstance(node, _PLAIN_NODES)
