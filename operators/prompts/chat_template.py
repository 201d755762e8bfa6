"""A tokenizer's own chat template, compiled by transformers as for `apply_chat_template`, which renders it in the same way.

`apply_chat_template` itself cannot be used: it gives templates the present day, and a prompt with the date of its rendering
would be another prompt tomorrow, so that no stored pair would ever be met again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Template, meta
from jinja2.exceptions import SecurityError
from transformers.utils.chat_template_utils import _compile_jinja_template

from operators.prompts.conversation import conversation
from operators.prompts.render_process import TemplateProblem
from operators.prompts.sandbox import text_of

TODAY = datetime(2024, 7, 26)  # the day that Llama's templates fall back to


def compile_chat(text: str, tokens: Mapping[str, str], variables: Mapping[str, Any]) -> Callable[..., str]:
    """What renders chat template `text` for a conversation with its answer, `render(instruction, input, turns, answer)`;
    `tokens` are the tokenizer's special tokens by name, `variables` what else the template is given.

    Compiling and rendering raise whatever Jinja raises; ValueError for a text too long, TemplateProblem for a
    variable that the template never reads.
    """
    template = _compile_jinja_template(text)
    _require_read(text, template, variables)
    template.globals["strftime_now"] = TODAY.strftime
    # As in templates of files: a row has the same prompt whenever it is rendered.
    template.environment.filters["random"] = template.globals["lipsum"] = _refuse_chance

    def render(instruction: str, input: str, turns: str | None, answer: str) -> str:
        messages = conversation(instruction, input, turns, answer)
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
        return text_of(template, {**tokens, **variables, **given})

    return render


def _require_read(text: str, template: Template, variables: Mapping[str, Any]) -> None:
    read = meta.find_undeclared_variables(template.environment.parse(text)) if variables else set()
    for name in variables:
        if name not in read:
            others = ", ".join(sorted(read - set(template.globals))) or "none"
            raise TemplateProblem(
                f"template 'chat' reads no variable {name!r} of scorer.chat; it reads: {others}. Take {name!r} out of "
                "scorer.chat, or give it a name that is read"
            )


def _refuse_chance(*given: Any, **options: Any) -> None:
    raise SecurityError(
        "random and lipsum are not accepted: a prompt is the same whenever it is rendered; take another scorer.template"
    )
