"""Text of rows that looks like a special token, and is encoded as the characters it is.

A tokenizer parses special tokens wherever they stand in a text. So what a row has of them is marked before the template is
rendered: a character that stands nowhere else breaks it in two. In the rendered text, what is whole is the template's own. The
text between two of these, with the marks taken out, is encoded with special tokens off. A row without such text goes none of
these ways.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

Ids = list[int]
# What is encoded before a text that does not stand at the start: some tokenizers put a space before the first word alone.
_LEADS = ("", "\n", "a")
_ACCEPTED = "accepted: the row without such text, or another scorer.model"


class EncodeProblem(ValueError):
    """A text of a row that cannot be encoded as the characters it is."""


class SpecialText:
    """The special tokens of one tokenizer, found in texts and encoded as characters."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._special = _any_of(special)
        # As a text of JSON has them, too.
        self._in_json = _any_of(special | {json.dumps(token, ensure_ascii=False)[1:-1] for token in special})
        self.control = _any_of(special | {token.content for token in added if not token.content.isspace()})
        # The token of what is unknown is what a tokenizer without all characters makes of some texts.
        unknown = getattr(tokenizer, "unk_token_id", None)
        self._ids = {id for id in map(tokenizer.convert_tokens_to_ids, special) if id is not None and id != unknown}

    def stands_in(self, *texts: str) -> bool:
        """Whether a special token stands in one of the texts."""
        return any(self._special.search(text) for text in texts)

    def is_all_of(self, text: str) -> bool:
        """Whether a text is special tokens alone, and white space."""
        return bool(self._special.search(text)) and not self._special.sub("", text).strip()

    def encode(self, text: str) -> Ids:
        """The ids of a text as the characters it is; raises EncodeProblem."""
        ids = self._plain(text)
        if not self._ids.isdisjoint(ids):
            raise EncodeProblem(
                "the row holds text that looks like a special token, and the tokenizer makes a special token of text "
                f"even where it is told not to; {_ACCEPTED}"
            )
        return ids

    def marked(self, instruction: str, input: str, turns: str | None = None) -> tuple[tuple[str, str, str | None], str]:
        """A row with marks in what looks like a special token, and the mark, which is empty where the row has no such text;
        raises EncodeProblem. `turns` is JSON."""
        if not (self.stands_in(instruction, input) or (turns is not None and self._in_json.search(turns))):
            return (instruction, input, turns), ""
        everything = f"{instruction}{input}{turns}{self._special.pattern}"
        mark = next((char for char in map(chr, range(0xE000, 0xF900)) if char not in everything), None)
        if mark is None:
            raise EncodeProblem(
                "the row holds text that looks like a special token, and every character of Unicode's private use "
                f"(U+E000 to U+F8FF), one of which has to be free to mark it; {_ACCEPTED}"
            )
        marked_turns = None if turns is None else json.dumps(self._broken(json.loads(turns), mark), ensure_ascii=False)
        return (self._broken(instruction, mark), self._broken(input, mark), marked_turns), mark

    def _broken(self, value: Any, mark: str) -> Any:
        if isinstance(value, dict):
            return {self._broken(key, mark): self._broken(inner, mark) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._broken(inner, mark) for inner in value]
        while isinstance(value, str) and (token := self._special.search(value)):
            if len(token[0]) == 1:
                raise EncodeProblem(
                    f"the row holds {token[0]!r}, a special token of a single character, which cannot be told from "
                    f"text; {_ACCEPTED}"
                )
            value = self._special.sub(lambda token: f"{token[0][0]}{mark}{token[0][1:]}", value)
        return value

    def encode_prompt(self, text: str, mark: str, encode_start: Callable[[str], Ids]) -> Ids:
        """The ids of the rendered text of a row that was marked; `encode_start` encodes its beginning under the tokenizer's own
        rule. Raises EncodeProblem."""
        # A filter of the template may have written the mark as JSON or a URL has it.
        text = re.sub(rf"\\u{ord(mark):04x}|{quote(mark)}", mark, text, flags=re.IGNORECASE)
        ids: Ids = []
        encode, done = encode_start, 0
        for left, start, stop, right in _between(list(self._special.finditer(text)), len(text)):
            if mark in text[start:stop]:
                ids += encode(text[done:start])
                ids += self._in_context(left, text[start:stop].replace(mark, ""), right)
                encode, done = self._ordinary, stop
        return [*ids, *encode(text[done:])]

    def _in_context(self, left: str, text: str, right: str) -> Ids:
        """The ids of a text as the characters it is, between two special tokens of the template (empty: there is none)."""
        simpler = text
        while self._special.search(simpler):
            simpler = self._special.sub("", simpler)
        simpler = simpler or "a"
        around = len(self._ordinary(left)), len(self._ordinary(right))
        whole = self._ordinary(f"{left}{simpler}{right}")
        expected = whole[around[0] : len(whole) - around[1]]
        for lead in _LEADS if left else _LEADS[:1]:
            ids, size = self.encode(lead + text), len(self._plain(lead))
            if self._plain(lead + simpler)[size:] == expected and ids[:size] == self._plain(lead):
                return ids[size:]
        raise EncodeProblem(
            "the row holds text that looks like a special token, and between special tokens of the template the "
            f"tokenizer does not encode it as text; {_ACCEPTED}"
        )

    def _ordinary(self, text: str) -> Ids:
        ids: Ids = self._tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0] if text else []
        return ids

    def _plain(self, text: str) -> Ids:
        if not text:
            return []
        encoded = self._tokenizer([text], add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: Ids = encoded["input_ids"][0]
        return ids


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern of the longest of the tokens at a place: a tree, as a model may have thousands that begin alike."""
    return re.compile(_tree(sorted(set(filter(None, tokens)))) or "(?!)")


def _tree(tokens: list[str]) -> str:
    branches: list[str] = [
        re.escape(char) + _tree([token[1:] for token in rest])
        for char, rest in itertools.groupby(filter(None, tokens), key=lambda token: token[0])
    ]
    if not branches:
        return ""
    if len(branches) == 1 and tokens[0]:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("" if tokens[0] else "?")


def _between(tokens: list[re.Match[str]], length: int) -> list[tuple[str, int, int, str]]:
    """(token before, start, stop, token after) of each stretch of a text between its tokens."""
    texts = ["", *(token[0] for token in tokens), ""]
    starts, stops = [0, *(token.end() for token in tokens)], [*(token.start() for token in tokens), length]
    return list(zip(texts, starts, stops, texts[1:], strict=False))
