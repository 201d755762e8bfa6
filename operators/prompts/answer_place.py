"""Where the answer stands in what a chat template renders, as a trainer would see it.

A conversation is rendered with a word in place of its answer. What stands before that word is the prompt, whatever a template
writes there: a header with a channel, an empty block of thoughts. What ends the answer is the first control token after it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

from operators.prompts.render_process import TemplateProblem

TRIAL = ("Say it again.", "It.")


class AnswerPlace:
    """Prompts of a chat template, of which `render(instruction, input, turns, answer)` renders a conversation.

    `control` matches the control tokens of the tokenizer. `end` is what follows an answer, up to and with the first of them;
    it is empty where none follows. Raises TemplateProblem where the template does not show an answer once and as it is.
    """

    def __init__(self, render: Callable[..., str], control: re.Pattern[str]):
        self._render, self._control = render, control
        self.end = self._end_of(self._around(*TRIAL, None)[1])

    def render(self, instruction: str, input: str, turns: str | None = None) -> str:
        """What stands before the answer; raises TemplateProblem."""
        before, after = self._around(instruction, input, turns)
        if (end := self._end_of(after)) != self.end:
            raise TemplateProblem(
                f"template 'chat' ends the answer of this row with {end!r}, and others with {self.end!r}; accepted: a "
                "chat template that ends all answers alike, or another scorer.template"
            )
        return before

    def _around(self, instruction: str, input: str, turns: str | None) -> tuple[str, str]:
        """What stands before and after the answer."""
        given = (instruction, input, turns or "")
        words = map("answer{}answer".format, itertools.count())
        answer = next(word for word in words if not any(word in text for text in given))
        text = self._render(instruction, input, turns, answer)
        if (times := text.count(answer)) != 1:
            raise TemplateProblem(
                f"template 'chat' shows the answer of a conversation {times} times as it is, so a trainer would not learn it; "
                "accepted: a chat template that shows it once, or another scorer.template"
            )
        before, _, after = text.partition(answer)
        return before, after

    def _end_of(self, after: str) -> str:
        control = self._control.search(after)
        return after[: control.end()] if control else ""
