"""Token ids of prompts and targets (SPEC 1): encoded apart, so that no token straddles the boundary between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators.template import Template, TemplateProblem

Ids = list[int]


def encode_prompts(tokenizer: Any, prompts: list[str]) -> list[Ids]:
    """Ids of each prompt under the tokenizer's own rule for special tokens, with BOS at most once."""
    if not prompts:
        return []
    bos = tokenizer.bos_token_id
    encoded = tokenizer(prompts, add_special_tokens=True, verbose=False)["input_ids"]
    return [_single_bos(ids, bos) for ids in encoded]


def _single_bos(ids: Ids, bos: int | None) -> Ids:
    # A chat template that writes BOS as text gets a second one from the tokenizer's rule.
    start = 0
    while bos is not None and ids[start : start + 2] == [bos, bos]:
        start += 1
    return ids[start:] if start else ids


def encode_targets(tokenizer: Any, outputs: list[str], *, append_eos: bool) -> list[Ids]:
    """Ids of each output without special tokens, plus EOS where `append_eos`."""
    if not outputs:
        return []
    encoded = tokenizer(outputs, add_special_tokens=False, verbose=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in encoded] if append_eos else encoded


def empty_context(tokenizer: Any) -> Ids:
    """The context of l(0), a target without a prompt: BOS, or EOS where the tokenizer has no BOS."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    raise ValueError("the scorer's tokenizer has neither a BOS nor an EOS token, so l(0) has no context")


@dataclass(frozen=True)
class Encoder:
    """All that turns text into ids: tokenizer, template, EOS policy and the longest sequence that may be scored."""

    tokenizer: Any
    template: Template
    append_eos: bool
    max_length: int

    def prompts(self, pairs: list[tuple[str, str]]) -> list[Ids | TemplateProblem]:
        """Ids of each (instruction, input), or the problem where the template fails on it or renders nothing."""
        texts: list[str | TemplateProblem] = []
        for instruction, input in pairs:
            try:
                texts.append(self.template.render(instruction, input))
            except TemplateProblem as problem:
                texts.append(problem)
        encoded = iter(encode_prompts(self.tokenizer, [text for text in texts if isinstance(text, str)]))
        return [_not_empty(next(encoded)) if isinstance(text, str) else text for text in texts]

    def prompt(self, instruction: str, input: str) -> Ids:
        """Ids of one prompt; raises TemplateProblem."""
        (ids,) = self.prompts([(instruction, input)])
        if isinstance(ids, TemplateProblem):
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
            fits = not isinstance(ids, TemplateProblem) and len(ids) <= room
            low, high = (middle, high) if fits else (low, middle)
        return low if low >= 0 else None


def _not_empty(ids: Ids) -> Ids | TemplateProblem:
    return ids if ids else TemplateProblem("the template renders an empty prompt for this row")
