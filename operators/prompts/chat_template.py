"""A tokenizer's own chat template, compiled by transformers as for `apply_chat_template`, which renders it in the same way.

`apply_chat_template` itself cannot be used: it gives templates the present day, and a prompt with the date of its rendering
would be another prompt tomorrow, so that no stored pair would ever be met again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2.exceptions import SecurityError
from transformers.utils.chat_template_utils import _compile_jinja_template

from operators.prompts.sandbox import Render, text_of

TODAY = datetime(2024, 7, 26)  # the day that Llama's templates fall back to


def compile_chat(text: str, tokens: Mapping[str, str]) -> Render:
    """What renders chat template `text` for one message of a user and the beginning of the answer; `tokens` are the tokenizer's
    special tokens by name. Compiling and rendering raise whatever Jinja raises; ValueError for a text too long."""
    template = _compile_jinja_template(text)
    template.globals["strftime_now"] = TODAY.strftime
    # As in templates of files: a row has the same prompt whenever it is rendered.
    template.environment.filters["random"] = template.globals["lipsum"] = _refuse_chance

    def render(instruction: str, input: str) -> str:
        message = {"role": "user", "content": f"{instruction}\n\n{input}" if input else instruction}
        variables = {"messages": [message], "tools": None, "documents": None, "add_generation_prompt": True}
        return text_of(template, {**tokens, **variables})

    return render


def _refuse_chance(*given: Any, **options: Any) -> None:
    raise SecurityError("random and lipsum are not accepted: a prompt is the same whenever it is rendered")
