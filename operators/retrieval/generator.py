"""A generator: texts sampled from a causal LM, of which none depends on the others that are sampled beside it.

A batch always has the same number of rows, and rows are together only where their prompts are padded to one length. So the
shape of all that is computed for a row follows from its own prompt, and the kernels add up its numbers in the same order
whatever stands in the other rows. Each row draws its tokens by random numbers of its own.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from operators.retrieval.answers import Answer, GeneratorProblem

PAD_TO = 64  # tokens: prompts are padded to a multiple of this
_U53 = 2.0**-53


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, and the key from which its random numbers follow."""

    key: bytes
    ids: list[int]


def uniform(seed: int, key: bytes, step: int) -> float:
    """The random number in [0, 1) that a request draws its token number `step` by."""
    data = b"%d " % seed + step.to_bytes(8, "little") + key
    return (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 11) * _U53


class DrawByKey(LogitsProcessor):
    """Leaves one token of each row: the one that the row's own random number picks from its distribution at `temperature`, or
    the likeliest where that is 0."""

    def __init__(self, keys: Sequence[bytes], seed: int, temperature: float):
        self._keys, self._seed, self._temperature, self._step = keys, seed, temperature, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores`: float [B, V]; the same shape, -inf but for one 0 in each row."""
        if self._temperature == 0:
            chosen_B1 = scores.argmax(dim=-1, keepdim=True)
        else:
            drawn = [uniform(self._seed, key, self._step) for key in self._keys]
            # In float64: the order in which a device adds up the distribution must not move a draw.
            cdf_BV = torch.softmax(scores.double() / self._temperature, dim=-1).cumsum(dim=-1)
            u_B1 = torch.tensor(drawn, dtype=torch.float64, device=scores.device)[:, None] * cdf_BV[:, -1:]
            chosen_B1 = torch.searchsorted(cdf_BV, u_B1, right=True).clamp_max(scores.shape[-1] - 1)
        self._step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, chosen_B1, 0.0)


class Generator:
    """Writes a text for each prompt under one model, which has `window` positions (None where it does not say)."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        window: int | None,
    ):
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._max_new, self._temperature, self._seed = max_new_tokens, temperature, seed
        self._room = None if window is None else window - max_new_tokens
        named = getattr(model.generation_config, "eos_token_id", None)
        ends = named if isinstance(named, list) else [named]
        self._ends = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else (self._ends or [0])[0]
        # Nothing else of what the model's folder says of generation: beams and penalties would mix or move what rows draw.
        model.generation_config = GenerationConfig(eos_token_id=self._ends or None, pad_token_id=self._pad)

    def batches(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """The requests in batches that may be written one by one, in an order that follows from the requests alone."""
        by_length: dict[int, list[Request]] = defaultdict(list)
        for request in requests:
            by_length[_padded(request)].append(request)
        for _, alike in sorted(by_length.items()):
            for start in range(0, len(alike), self._batch_size):
                yield alike[start : start + self._batch_size]

    def write(self, batch: list[Request]) -> list[Answer]:
        """What is written for a batch of `batches`. A prompt that leaves the model no room for an answer is refused. Raises
        GeneratorProblem where memory runs out."""
        if self._room is not None and _padded(batch[0]) > self._room:
            return [Answer(None, True) for _ in batch]
        rows = [*batch, *[batch[0]] * (self._batch_size - len(batch))]  # a batch is always of one size
        try:
            written = self._sample(rows)[: len(batch)].tolist()
        except torch.OutOfMemoryError as error:
            raise GeneratorProblem(
                f"memory ran out while {self._batch_size} texts were written together; set "
                "alternatives.generator.batch_size lower"
            ) from error
        return [self._answer(ids) for ids in written]

    def _sample(self, rows: list[Request]) -> torch.Tensor:
        """New token ids [B, T]."""
        width = _padded(rows[0])
        ids_BT = torch.full((len(rows), width), self._pad)
        mask_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(rows):
            ids_BT[row, width - len(request.ids) :] = torch.tensor(request.ids)
            mask_BT[row, width - len(request.ids) :] = 1
        draw = DrawByKey([request.key for request in rows], self._seed, self._temperature)
        device = self._model.device
        output: torch.Tensor = self._model.generate(
            input_ids=ids_BT.to(device),
            attention_mask=mask_BT.to(device),
            generation_config=GenerationConfig(
                do_sample=False,
                num_beams=1,
                max_new_tokens=self._max_new,
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
            ),
            logits_processor=LogitsProcessorList([draw]),
        )
        return output[:, width:].cpu()

    def _answer(self, ids: list[int]) -> Answer:
        end = next((place for place, id in enumerate(ids) if id in self._ends), None)
        kept = ids if end is None else ids[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(text, end is not None, len(kept) + (end is not None))


def _padded(request: Request) -> int:
    """Tokens of a prompt with its padding, of which there always is some: where no row had any, there would be no mask, and
    another kernel."""
    return (len(request.ids) // PAD_TO + 1) * PAD_TO
