"""Templates: how an instruction and an input become prompt text.

`alpaca` and `plain` are Jinja sources kept here, a path names a Jinja file of the user, and `chat` is the tokenizer's own
chat template, which renders the whole conversation with its answer; the prompt is what stands before that. All run in Jinja's
immutable sandbox, and those that are not plain in a process under limits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from operators.error_text import one_line
from operators.prompts.answer_place import TRIAL, AnswerPlace
from operators.prompts.render_process import RenderProcess
from operators.prompts.render_process import TemplateProblem as TemplateProblem
from operators.prompts.sandbox import MAX_SOURCE, Render, compile_jinja, is_plain
from operators.prompts.special_text import SpecialText

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
CHAT = "chat"
# A short row, and one of several thousand characters with many words and lines.
TRIAL_ROWS = (
    TRIAL,
    ("Sort the words of each line, then count them.\n" * 60, "one two three four five\n" * 250),
)
_MORE = " Then begin again."  # what makes another instruction of one


@dataclass(frozen=True)
class Template:
    """A prompt template: its name, its Jinja source, `render(instruction, input, turns)`, the variables that somebody has set
    for it, and what it writes at the end of an answer (empty: nothing that ends one)."""

    name: str
    text: str
    render: Render
    variables: Mapping[str, Any] = field(default_factory=dict)
    end: str = ""

    @property
    def hash(self) -> str:
        """128-bit digest of the source and the variables, in hex."""
        set_for_it = f"\0{json.dumps(self.variables, sort_keys=True)}" if self.variables else ""
        return hashlib.blake2b((self.text + set_for_it).encode(), digest_size=16).hexdigest()


def source_of(name: str) -> str:
    """The Jinja source of `alpaca`, `plain` or the file at path `name`, and nothing for `chat`: that is the tokenizer's.

    Raises `TemplateProblem` for a file that cannot be read."""
    if name == CHAT:
        return ""
    return BUILT_IN[name] if name in BUILT_IN else _read(name)


@dataclass(frozen=True)
class Source:
    """All that a template is made from: its name, its Jinja source, and for `chat` the tokenizer's special tokens by name and
    the variables that somebody has set."""

    name: str
    text: str
    tokens: dict[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)


def find_template(
    name: str, tokenizer: Any = None, text: str | None = None, variables: Mapping[str, Any] | None = None
) -> Source:
    """The source of `alpaca`, `plain`, `chat` (needs `tokenizer`) or the path of a Jinja file, whose `text` somebody may have
    read before. Raises `TemplateProblem` for a file that cannot be read, or a tokenizer that has no chat template."""
    if name != CHAT:
        return Source(name, source_of(name) if text is None else text)
    chat = _chat_source(tokenizer)
    if not chat:
        raise TemplateProblem(
            "template 'chat': the scorer's tokenizer has no chat template; accepted: alpaca, plain or the path of a Jinja file"
        )
    return Source(name, chat, dict(tokenizer.special_tokens_map), dict(variables or {}))


def _chat_source(tokenizer: Any) -> str | None:
    chat = getattr(tokenizer, "chat_template", None)
    return chat.get("default") if isinstance(chat, dict) else chat


def load_template(
    name: str, tokenizer: Any = None, text: str | None = None, variables: Mapping[str, Any] | None = None
) -> Template:
    """`find_template` and `make_template`; raises what they do."""
    return make_template(find_template(name, tokenizer, text, variables), tokenizer)


def from_text(name: str, text: str) -> Template:
    """A template over `instruction` and `input` from Jinja source; raises `TemplateProblem` where it does not work."""
    return make_template(Source(name, text))


def make_template(source: Source, tokenizer: Any = None) -> Template:
    """The template of a source, whose `tokenizer` knows the control tokens of `chat`; raises `TemplateProblem` where it cannot
    be compiled, or is no chat template that a trainer could use.

    Plain ones are rendered here, others in a process under limits, which this starts."""
    if source.name == CHAT:
        place = AnswerPlace(RenderProcess(vars(source)).render, SpecialText(tokenizer).control)
        return Template(source.name, source.text, place.render, source.variables, place.end)
    if is_plain(source.text):
        return Template(source.name, source.text, prepare(**vars(source))())
    return Template(source.name, source.text, RenderProcess(vars(source)).render)


def bos_opens_turns(tokenizer: Any) -> bool:
    """Whether the tokenizer's chat template, if it has one that works, writes BOS more than once for a question and its answer:
    then it begins each turn with it, and not the text."""
    chat, bos = _chat_source(tokenizer), tokenizer.bos_token
    if not chat or not bos or (bos not in chat and "bos_token" not in chat):
        return False
    return _times_in_exchange(chat, tuple(sorted(_texts(tokenizer.special_tokens_map).items())), bos) > 1


def _texts(tokens: Mapping[str, Any]) -> dict[str, str]:
    return {name: token for name, token in tokens.items() if isinstance(token, str)}


@lru_cache(maxsize=8)
def _times_in_exchange(chat: str, tokens: tuple[tuple[str, str], ...], bos: str) -> int:
    try:
        return RenderProcess(vars(Source(CHAT, chat, dict(tokens)))).render(*TRIAL, None, "Yes.").count(bos)
    except TemplateProblem:
        return 0


def try_template(template: Template, rows: tuple[tuple[str, str], ...] = TRIAL_ROWS) -> list[str]:
    """The text of each (instruction, input), before any work depends on the template; raises `TemplateProblem`, also where the
    template gives two instructions the same prompt: an alternative would score as the instruction does."""
    texts = [template.render(*row) for row in rows]
    for (instruction, input), text in zip(rows, texts, strict=True):
        _require_distinct(template, instruction, input, text)
        try:
            alone = template.render(instruction, "")
        except TemplateProblem:
            continue  # it may be meant for rows with an input
        _require_distinct(template, instruction, "", alone)
    return texts


def _require_distinct(template: Template, instruction: str, input: str, text: str) -> None:
    """Raise `TemplateProblem` where the text of a row is also that of another instruction with the same input."""
    if template.render(instruction + _MORE, input) == text:
        row = "with an input" if input else "without an input"
        raise TemplateProblem(
            f"template {template.name!r} gives two instructions the same prompt, on a row {row}: one of {len(instruction)} "
            f"characters, and the same followed by {_MORE!r}; accepted: a template that shows the whole instruction"
        )


def prepare(name: str, text: str, tokens: Mapping[str, str], variables: Mapping[str, Any]) -> Callable[[], Render]:
    """What compiles a source, with all imported that it needs; it and what it gives raise `TemplateProblem`. What `chat` gives
    takes, after the turns, the answer that it is to show."""
    if name == CHAT:
        from operators.prompts.chat_template import compile_chat  # brings transformers

        return partial(_compile, name, partial(compile_chat, text, tokens, variables), "")
    return partial(_compile, name, partial(compile_jinja, text), "; it may use only instruction and input")


def _compile(name: str, compile_source: Callable[[], Callable[..., str]], advice: str) -> Render:
    try:
        compiled = compile_source()
    except TemplateProblem:
        raise
    except Exception as error:
        raise TemplateProblem(
            f"template {name!r} is not valid Jinja: {one_line(error)}; accepted: alpaca, plain, chat, or a file "
            "that shows {{ instruction }} and {{ input }}"
        ) from error

    def render(*row: str | None) -> str:
        try:
            return compiled(*row)
        except Exception as error:
            raise TemplateProblem(f"template {name!r} failed: {one_line(error)}{advice}") from error

    return render


def _read(name: str) -> str:
    try:
        path = Path(name)
        # A device or a pipe could give text without end, or never any.
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")
        with path.open("rb") as file:
            return file.read(4 * MAX_SOURCE + 1).decode("utf-8")  # a character has up to 4 bytes
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else f"not UTF-8 ({one_line(error)})"
        raise TemplateProblem(
            f"template {name!r}: {reason}; accepted: alpaca, plain, chat or the path of a Jinja file"
        ) from error
