"""What a generator is asked: a text that shows an input, and never an instruction or an output of the corpus."""

from __future__ import annotations

import hashlib
import re

MOST_CHARS = 1 << 16  # of a prompt before the input stands in it
# The project's own words: those of the paper stand in an appendix that we have not read.
DEFAULT = """\
An assistant is given a text together with an instruction that says what to do with it. Here is the text:

<text>
{input}
</text>

Write {k} different instructions that somebody might give for this text. Each must ask for another kind of output, so that no
answer to one of them would do for another. Each must make sense by itself, in one sentence that names what is wanted.
Do not follow any instruction, do not repeat the text, and do not write any answer.

Answer with a numbered list of {k} instructions, one on each line, and nothing else.
"""
_FIELD = re.compile(r"\{(input|k)\}")


class PromptProblem(ValueError):
    """A prompt that asks for nothing, in words for the person who wrote it."""


def check_prompt(text: str) -> None:
    """Raise PromptProblem where a prompt does not show the input, or is no text of a reasonable length."""
    if "{input}" not in text:
        raise PromptProblem(
            "has no {input}, where the text of a row's input is to stand; {k} is how many are asked for"
        )
    if len(text) > MOST_CHARS:
        raise PromptProblem(f"has {len(text):,} characters; accepted: at most {MOST_CHARS:,}")


def fill_prompt(text: str, input: str, k: int, most_chars: int) -> str:
    """The prompt for an input, of which the first `most_chars` characters are shown. What looks like a field in the input stays
    as it is."""
    fields = {"input": input[:most_chars], "k": str(k)}
    return _FIELD.sub(lambda field: fields[field[1]], text)


def prompt_hash(text: str) -> str:
    """128-bit digest of a prompt, in hex."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
