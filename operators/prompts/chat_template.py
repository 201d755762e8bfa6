"""A tokenizer's own chat template under the account of `sandbox`: it comes with a model, so it is a stranger's.

What a template of that kind may count on is what transformers gives it: blocks that take their line's white space with them,
`break` and `continue`, the tag `generation`, a `tojson` that escapes no HTML, `raise_exception`, `strftime_now`, the special
tokens, and an undefined variable that is merely false. Filters and methods are those of `sandbox`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from operators.prompts.sandbox import BoundedEnvironment, compile_counted
from operators.prompts.sandbox_account import counted_filter, spend

# A prompt with the date of its rendering would be another prompt tomorrow, and no stored pair would ever be met again. This is
# the day that Llama's templates fall back to.
TODAY = datetime(2024, 7, 26)
_MAX_INDENT = 16
_STRFTIME_GROWTH = 256  # Python gives up on a format whose result is longer than so many times its length


def compile_chat(text: str, tokens: Mapping[str, str]) -> Callable[[str], str]:
    """A function that renders chat template `text` for one message of a user and the beginning of the answer; `tokens` are the
    tokenizer's special tokens by name.

    Compiling and rendering raise whatever Jinja raises, and WorkLimit where a rendering is over its limit.
    """
    counted = compile_counted(_ChatEnvironment(), text)
    known = sum(map(len, tokens.values()))

    def render(content: str) -> str:
        messages = [{"role": "user", "content": content}]
        said = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return counted({**said, **tokens}, len(content) + known)

    return render


class _Generation(Extension):
    """`{% generation %}`, which marks what a model has said: here its content."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """See `Extension.parse`."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _ChatEnvironment(BoundedEnvironment):
    def __init__(self) -> None:
        super().__init__(
            keep_trailing_newline=False,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=Undefined,
            extensions=[_Generation, loopcontrols],
        )
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.filters["tojson"] = counted_filter("chat tojson", _tojson)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    spend(_STRFTIME_GROWTH * len(format))
    return TODAY.strftime(format)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise SecurityError(f"tojson indents by at most {_MAX_INDENT} characters here")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    pieces = []
    for piece in encoder.iterencode(x):  # text piece by piece: shared lists and indentation can make much of little
        spend(1 + len(piece))
        pieces.append(piece)
    return "".join(pieces)
