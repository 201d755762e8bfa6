"""Token ids of prompts and targets: encoded apart, so that no token straddles the boundary between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from operators.prompts.template import Template, TemplateProblem
from operators.prompts.token_bounds import longest_text

Ids = list[int]
# Characters that go to the tokenizer at a time, since it may take 400 bytes of memory for each; a longer text goes alone.
CHARS_AT_ONCE = 1 << 19
_T = TypeVar("_T")


class TooLong(ValueError):
    """A text that is known to have more than `max_length` tokens without being tokenised."""


def slices(items: list[_T], size: Callable[[_T], int]) -> Iterator[list[_T]]:
    """The items in order, so many together as have CHARS_AT_ONCE characters, or one that has more."""
    together: list[_T] = []
    room = CHARS_AT_ONCE
    for item in items:
        if together and size(item) > room:
            yield together
            together, room = [], CHARS_AT_ONCE
        together.append(item)
        room -= size(item)
    if together:
        yield together


def _encode(tokenizer: Any, texts: list[str], special: bool) -> list[Ids]:
    return [
        ids
        for together in slices(texts, len)
        for ids in tokenizer(together, add_special_tokens=special, verbose=False)["input_ids"]
    ]


def encode_prompts(tokenizer: Any, prompts: list[str]) -> list[Ids]:
    """Ids of each prompt under the tokenizer's own rule for special tokens, with BOS at most once, and without what that rule
    puts after a text (EOS, [SEP]): the output follows there, and nothing has ended."""
    bos, appended = tokenizer.bos_token_id, _appended(tokenizer)
    return [_single_bos(_without_end(ids, appended), bos) for ids in _encode(tokenizer, prompts, True)]


@lru_cache(maxsize=2)
def _appended(tokenizer: Any) -> Ids:
    """The ids that a tokenizer's own rule puts after every text."""
    (plain,), (whole,) = (_encode(tokenizer, ["a b"], special) for special in (False, True))
    for start in range(len(whole) - len(plain), -1, -1):
        if whole[start : start + len(plain)] == plain:
            return whole[start + len(plain) :]
    return []


def _without_end(ids: Ids, end: Ids) -> Ids:
    return ids[: -len(end)] if end and ids[-len(end) :] == end else ids


def _single_bos(ids: Ids, bos: int | None) -> Ids:
    # A chat template that writes BOS as text gets a second one from the tokenizer's rule.
    start = 0
    while bos is not None and ids[start : start + 2] == [bos, bos]:
        start += 1
    return ids[start:] if start else ids


def encode_targets(tokenizer: Any, outputs: list[str], *, append_eos: bool) -> list[Ids]:
    """Ids of each output without special tokens, plus EOS where `append_eos`."""
    encoded = _encode(tokenizer, outputs, False)
    return [[*ids, tokenizer.eos_token_id] for ids in encoded] if append_eos else encoded


def empty_context(tokenizer: Any) -> Ids:
    """The context of l(0), a target without a prompt: BOS, or EOS where the tokenizer has no BOS."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    raise ValueError("the scorer's tokenizer has neither a BOS nor an EOS token, so l(0) has no context")


@dataclass(frozen=True)
class Encoder:
    """All that turns text into ids: tokenizer, template, EOS policy, the longest sequence that may be scored, and how many ids
    the model knows (None where its configuration does not say)."""

    tokenizer: Any
    template: Template
    append_eos: bool
    max_length: int
    vocab_size: int | None = None

    @cached_property
    def _longest_text(self) -> int | None:
        return longest_text(self.tokenizer)

    def certainly_over(self, text: str) -> bool:
        """Whether a text has more than `max_length` tokens for certain; nothing is tokenised to know."""
        if len(text) <= self.max_length or self._longest_text is None:
            return False
        most = self.max_length * self._longest_text
        return len(text) > most and sum(not char.isspace() for char in text) > most

    def outside(self, ids: Ids) -> str | None:
        """What is wrong with ids where the model has no embedding for one of them: that would end a GPU's process."""
        if self.vocab_size is None or max(ids, default=0) < self.vocab_size:
            return None
        first = next(id for id in ids if id >= self.vocab_size)
        return (
            f"the token {self.tokenizer.convert_ids_to_tokens(first)!r} has the id {first}, and the model's vocabulary has "
            f"{self.vocab_size} ids: the tokenizer was extended, and the model was not resized"
        )

    def prompts(self, pairs: list[tuple[str, str]]) -> list[Ids | TemplateProblem | TooLong]:
        """Ids of each (instruction, input), or the problem where the template fails on it or renders nothing, or where its
        text alone is certainly over `max_length` tokens."""
        texts = [self._rendered(instruction, input) for instruction, input in pairs]
        encoded = iter(encode_prompts(self.tokenizer, [text for text in texts if isinstance(text, str)]))
        return [_not_empty(next(encoded)) if isinstance(text, str) else text for text in texts]

    def _rendered(self, instruction: str, input: str) -> str | TemplateProblem | TooLong:
        try:
            text = self.template.render(instruction, input)
        except TemplateProblem as problem:
            return problem
        return TooLong(f"{len(text):,} characters of prompt") if self.certainly_over(text) else text

    def prompt(self, instruction: str, input: str) -> Ids:
        """Ids of one prompt; raises TemplateProblem, TooLong."""
        (ids,) = self.prompts([(instruction, input)])
        if not isinstance(ids, list):
            raise ids
        return ids

    def targets(self, outputs: list[str]) -> list[Ids]:
        """Ids of each output, with EOS where the policy says so."""
        return encode_targets(self.tokenizer, outputs, append_eos=self.append_eos)

    def longest_input(self, instruction: str, input: str, room: int) -> int | None:
        """How many characters of `input` can stay so that the prompt has at most `room` ids; None if not even none do."""
        low, high = -1, len(input)  # low fits (or is -1), high does not
        while high - low > 1:
            middle = (low + high) // 2
            ids = self.prompts([(instruction, input[:middle])])[0]
            fits = isinstance(ids, list) and len(ids) <= room
            low, high = (middle, high) if fits else (low, middle)
        return low if low >= 0 else None


def _not_empty(ids: Ids) -> Ids | TemplateProblem:
    return ids if ids else TemplateProblem("the template renders an empty prompt for this row")
