"""Templates: how an instruction and an input become prompt text (SPEC 1 and 7).

`alpaca` and `plain` are Jinja sources kept here, a path names a Jinja file of the user, and `chat` is the tokenizer's own
chat template. All run in Jinja's immutable sandbox under an account; those over instruction and input with default white-space
settings and the trailing newline kept, the tokenizer's own with what transformers gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operators.error_text import one_line
from operators.prompts.chat_template import compile_chat
from operators.prompts.sandbox import FILTERS, MAX_SOURCE, compile_bounded

ALPACA = (
    "Below is an instruction that describes a task"
    "{% if input %}, paired with an input that provides further context{% endif %}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{{ instruction }}\n\n"
    "{% if input %}### Input:\n{{ input }}\n\n{% endif %}"
    "### Response:\n"
)
PLAIN = "{{ instruction }}\n\n{% if input %}{{ input }}\n\n{% endif %}"
BUILT_IN = {"alpaca": ALPACA, "plain": PLAIN}


class TemplateProblem(ValueError):
    """A template that cannot be loaded or that fails on a row."""


@dataclass(frozen=True)
class Template:
    """A prompt template: its name, its Jinja source, and `render(instruction, input)`."""

    name: str
    text: str
    render: Callable[[str, str], str]

    @property
    def hash(self) -> str:
        """128-bit digest of the source, in hex."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()


def source_of(name: str) -> str:
    """The Jinja source of `alpaca`, `plain` or the file at path `name`, and nothing for `chat`: that is the tokenizer's.

    Raises `TemplateProblem` for a file that cannot be read."""
    if name == "chat":
        return ""
    return BUILT_IN[name] if name in BUILT_IN else _read(name)


@dataclass(frozen=True)
class Source:
    """All that a template is made from: its name, its Jinja source, and for `chat` the tokenizer's special tokens by name."""

    name: str
    text: str
    tokens: dict[str, str] = field(default_factory=dict)


def find_template(name: str, tokenizer: Any = None, text: str | None = None) -> Source:
    """The source of `alpaca`, `plain`, `chat` (needs `tokenizer`) or the path of a Jinja file, whose `text` somebody may have
    read before. Raises `TemplateProblem` for a file that cannot be read, or a tokenizer that has no chat template."""
    if name != "chat":
        return Source(name, source_of(name) if text is None else text)
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    if not own:
        raise TemplateProblem(
            "template 'chat': the scorer's tokenizer has no chat template; accepted: alpaca, plain or the path of a Jinja file"
        )
    return Source(name, own, dict(tokenizer.special_tokens_map))


def make_template(source: Source) -> Template:
    """The template of a source; raises `TemplateProblem` where that cannot be parsed."""
    return _chat(source) if source.name == "chat" else from_text(source.name, source.text)


def load_template(name: str, tokenizer: Any = None, text: str | None = None) -> Template:
    """`find_template` and `make_template`; raises what they do."""
    return make_template(find_template(name, tokenizer, text))


def _read(name: str) -> str:
    try:
        path = Path(name)
        # A device or a pipe could give text without end, or never any.
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")
        with path.open("rb") as file:
            return file.read(4 * MAX_SOURCE + 1).decode("utf-8")  # a character has up to 4 bytes
    except (OSError, ValueError) as error:
        found = (error.strerror or "").lower() if isinstance(error, OSError) else f"not UTF-8 ({one_line(error)})"
        raise TemplateProblem(
            f"template {name!r}: {found}; accepted: alpaca, plain, chat or the path of a Jinja file"
        ) from error


def from_text(name: str, text: str) -> Template:
    """A template over `instruction` and `input` from Jinja source; raises `TemplateProblem` where it does not work."""
    try:
        compiled = compile_bounded(text)
    except Exception as error:
        raise TemplateProblem(f"template {name!r} is not valid Jinja: {one_line(error)}{_accepted(error)}") from error

    def render(instruction: str, input: str) -> str:
        try:
            return compiled(instruction, input)
        except Exception as error:
            raise TemplateProblem(
                f"template {name!r} failed: {one_line(error)}; it may use only instruction and input"
            ) from error

    return Template(name, text, render)


def _accepted(error: Exception) -> str:
    return f"; accepted: {', '.join(FILTERS)}" if "No filter named" in str(error) else ""


def _chat(source: Source) -> Template:
    try:
        compiled = compile_chat(source.text, source.tokens)
    except Exception as error:
        raise TemplateProblem(f"template 'chat' is not valid Jinja: {one_line(error)}{_accepted(error)}") from error

    def render(instruction: str, input: str) -> str:
        try:
            return compiled(f"{instruction}\n\n{input}" if input else instruction)
        except Exception as error:
            raise TemplateProblem(f"template 'chat' failed: {one_line(error)}") from error

    return Template(source.name, source.text, render)
