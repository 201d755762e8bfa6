"""Token ids of prompts and targets: encoded apart, so that no token straddles the boundary between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar, cast

from operators.prompts.conversation import turns_to_question
from operators.prompts.special_text import EncodeProblem, SpecialText
from operators.prompts.special_text import Ids as Ids
from operators.prompts.template import CHAT, Template, TemplateProblem
from operators.prompts.token_bounds import longest_text

# An instruction and an input; of a conversation under a chat template, the turns up to its answer too, as
# `turns_to_question` gives them.
Row = tuple[str, str] | tuple[str, str, str | None]
Problem = TemplateProblem | EncodeProblem
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


def encode_prompts(tokenizer: Any, prompts: list[str], *, by_rule: bool = True) -> list[Ids]:
    """Ids of each prompt under the tokenizer's own rule for special tokens, with BOS at most once, and without what that rule
    puts after a text (EOS, [SEP]): the output follows there, and nothing has ended. Not `by_rule`, nothing is added: a chat
    template writes all special tokens that a trainer sees."""
    bos, appended = tokenizer.bos_token_id, _appended(tokenizer) if by_rule else []
    return [_single_bos(_without_end(ids, appended), bos) for ids in _encode(tokenizer, prompts, by_rule)]


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


def empty_context(tokenizer: Any, *, bos_opens_turns: bool = False) -> Ids:
    """The context of l(0), a target without a prompt: BOS, or EOS where the tokenizer has no BOS.

    EOS too where `bos_opens_turns`: in a chat template of ChatML the same token may begin each turn, and what follows it then
    is the name of a role. Such a tokenizer's EOS may close turns and nothing else; after it a model expects any text sooner
    than after a token that opens a turn. Where it has no other token as EOS, BOS stays.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for token in (eos, bos) if bos_opens_turns else (bos, eos):
        if token is not None:
            return [token]
    raise ValueError(
        "the scorer's tokenizer has neither a BOS nor an EOS token, and the likelihood of an output without a prompt "
        "begins with one; accepted: a model whose tokenizer has one of them"
    )


@dataclass(frozen=True)
class Encoder:
    """All that turns text into ids: tokenizer, template, EOS policy, the longest sequence that may be scored, how many ids
    the model knows (None where its configuration does not say), and whether BOS begins each turn of its chats."""

    tokenizer: Any
    template: Template
    append_eos: bool
    max_length: int
    vocab_size: int | None = None
    bos_opens_turns: bool = False

    @cached_property
    def _special(self) -> SpecialText:
        return SpecialText(self.tokenizer)

    @cached_property
    def context(self) -> Ids:
        """The context of l(0)."""
        return empty_context(self.tokenizer, bos_opens_turns=self.bos_opens_turns)

    @cached_property
    def end(self) -> Ids:
        """What ends a target: nothing without `append_eos`, what the chat template writes after an answer, or EOS."""
        if not self.append_eos:
            return []
        if not self.template.end:
            return [self.tokenizer.eos_token_id]
        # After a letter: at the start of a text some tokenizers put a space before the first word.
        letter, ended, alone = _encode(self.tokenizer, ["a", f"a{self.template.end}", self.template.end], False)
        return ended[len(letter) :] if ended[: len(letter)] == letter else alone

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
            f"{self.vocab_size} ids: the tokenizer was extended, and the model was not resized; accepted: a model "
            "saved after resize_token_embeddings"
        )

    def turns(self, instruction: str, messages: str | None, turn: int | None = None) -> str | None:
        """The turns up to the answer of a row that has `messages`, where the template takes them as turns; else they stand as
        text in the row's input. The answer is at place `turn`, or the last."""
        return turns_to_question(messages, instruction, turn) if messages and self.template.name == CHAT else None

    def holds_special(self, *texts: str) -> bool:
        """Whether something in a row's texts looks like a special token."""
        return self._special.stands_in(*texts)

    def is_special(self, text: str) -> bool:
        """Whether a text holds nothing but what looks like special tokens."""
        return self._special.is_all_of(text)

    def prompts(self, rows: Sequence[Row]) -> list[Ids | Problem | TooLong]:
        """Ids of each row, or the problem where the template fails on it or renders nothing, where it cannot be encoded, or
        where its text alone is certainly over `max_length` tokens."""
        texts = [self._rendered(row) for row in rows]
        encoded = iter(self._encode_rendered([text for text in texts if isinstance(text, str)]))
        return [_not_empty(next(encoded)) if isinstance(text, str) else text for text in texts]

    def _rendered(self, row: Row) -> str | Ids | Problem | TooLong:
        """The text of a row's prompt; its ids where it holds what looks like a special token."""
        try:
            marked, mark = self._special.marked(*row)
            text = self.template.render(*marked)
            if self.certainly_over(text):
                return TooLong(f"{len(text):,} characters of prompt")
            return (
                self._special.encode_prompt(text, mark, lambda start: self._encode_rendered([start])[0])
                if mark
                else text
            )
        except (TemplateProblem, EncodeProblem) as problem:
            return problem

    def _encode_rendered(self, texts: list[str]) -> list[Ids]:
        return encode_prompts(self.tokenizer, texts, by_rule=self.template.name != CHAT)

    def prompt(self, *row: str | None) -> Ids:
        """Ids of one prompt; raises TemplateProblem, EncodeProblem, TooLong."""
        (ids,) = self.prompts([cast(Row, row)])
        if not isinstance(ids, list):
            raise ids
        return ids

    def targets(self, outputs: list[str]) -> list[Ids]:
        """Ids of each output, with what ends it where the policy says so; raises EncodeProblem."""
        special = [self._special.stands_in(output) for output in outputs]
        plain = [output for output, held in zip(outputs, special, strict=True) if not held]
        encoded = iter(encode_targets(self.tokenizer, plain, append_eos=False))
        return [
            [*(self._special.encode(output) if held else next(encoded)), *self.end]
            for output, held in zip(outputs, special, strict=True)
        ]

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
    empty = "the template renders an empty prompt for this row; accepted: a scorer.template that shows the instruction"
    return ids if ids else TemplateProblem(empty)
