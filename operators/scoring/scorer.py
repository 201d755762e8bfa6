"""Log-likelihoods of target tokens under a causal LM: no token computed twice, no padding masks, no full logits.

Sequences of a call that begin alike share that work (`trie`); architectures that `decoder` does not know are run by
transformers on padded batches of similar length instead. Only positions that predict a target reach the output head, whose
log-softmax is float32 and never holds all logits (`head`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

from operators.scoring.attention import Layout
from operators.scoring.batching import Batch, Ids, Segments, Sequences, packed_batches, padded_batches
from operators.scoring.decoder import Decoder, walkable
from operators.scoring.head import finish_of, target_logprobs, tiled

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 32 << 20  # float32 logits taken at once from a model that is run whole

# From a batch, the places of its targets' predictors [M] and the target ids [M]: their log-probabilities, float32 [M].
Forward = Callable[[Batch, torch.Tensor, torch.Tensor], torch.Tensor]
Batches = Callable[[Sequences, int], Iterator[Batch]]
Keep = Callable[[np.ndarray, np.ndarray], None]


class TargetScorer:
    """Sums of target log-probabilities under one model.

    `model` is any causal LM of transformers; `batch_tokens` bounds the tokens of a forward pass. When memory runs out on a
    batch, the bound is halved and the batch is cut, down to one sequence; then the error is raised.
    """

    def __init__(self, model: Any, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self.device = next(model.parameters()).device
        self.forwarded_tokens = 0  # with padding
        self.padding_tokens = 0
        self.way, self._forward, self._batches = self._fastest_way()

    def sums(
        self,
        prompts: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        finished: np.ndarray | None = None,
        keep: Keep | None = None,
        every: float = float("inf"),
    ) -> np.ndarray:
        """Float64 [N]: for each pair the sum over its target ids of log p(id | all ids before it), natural log.

        Every prompt and every target has at least one id. `finished` [N] holds sums that are known already, NaN elsewhere:
        batches of which all are known are passed over. `keep` is given the rows and sums of finished batches, at most `every`
        seconds after they were computed (or after one batch, where that takes longer), and at the end.
        """
        result = np.full(len(prompts), np.nan) if finished is None else finished.copy()
        if len(prompts):
            results = _Results(result, keep, every)
            self._score(Sequences.of(prompts, targets), np.arange(len(prompts)), results)
            results.settle()
        return result

    def works(self) -> bool:
        """Whether the scorer still gives the model's own numbers for fixed ids: if so, what it fails on is at fault. What the
        model raises is raised."""
        return self._agrees(self._forward, self._batches)

    def _score(self, sequences: Sequences, indices: np.ndarray, results: _Results) -> None:
        for batch in self._batches(sequences, self.batch_tokens):
            rows = indices[batch.sequences]
            if results.has(rows):
                continue
            try:
                results.take(rows, self._sums(batch, self._forward))
                self.forwarded_tokens += batch.ids.size
                self.padding_tokens += batch.padding
                continue
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or len(batch.sequences) == 1:
                    raise
            # Outside the handler: the exception would keep the failed batch's tensors alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch_tokens = max(1, min(self.batch_tokens, batch.ids.size) // 2)
            _log.warning(
                "out of memory on a batch of %d sequences: batch_tokens is now %d",
                len(batch.sequences),
                self.batch_tokens,
            )
            self._score(sequences.take(batch.sequences), rows, results)

    @torch.inference_mode()
    def _sums(self, batch: Batch, forward: Forward) -> torch.Tensor:
        """Float64 [B] on the device."""
        places_M, wanted_M, owners_M = map(self._to_device, (batch.places, batch.wanted, batch.owners))
        chosen_M = forward(batch, places_M, wanted_M)
        sums_B = torch.zeros(len(batch.sequences), dtype=torch.float64, device=self.device)
        return sums_B.index_add_(0, owners_M, chosen_M.double())

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _fastest_way(self) -> tuple[str, Forward, Batches]:
        """Its name, how to run a batch, and how to make batches. Each way is compared with the model's own logits first:
        architectures do more between decoder and head than any list of configuration keys tells."""
        model = self.model
        decoder, head = model.get_decoder(), model.get_output_embeddings()

        def whole(batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor) -> torch.Tensor:
            logits = model(input_ids=self._to_device(batch.ids), use_cache=False).logits.flatten(0, 1)
            return torch.cat(
                [_chosen(logits[places_M[rows]], wanted_M[rows]) for rows in _chunks(len(wanted_M), logits)]
            )

        if decoder is model or not tiled(model):
            return "whole", whole, padded_batches
        finish = finish_of(model)

        def padded(batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor) -> torch.Tensor:
            hidden = decoder(input_ids=self._to_device(batch.ids), use_cache=False).last_hidden_state
            return target_logprobs(head, finish, hidden.flatten(0, 1)[places_M], wanted_M)

        def packed(batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor) -> torch.Tensor:
            layout = Layout(cast("Segments", batch.segments), self.device)  # packed batches have segments
            hidden = walk.hidden(self._to_device(batch.ids), layout, places_M)
            return target_logprobs(head, finish, hidden, wanted_M)

        if walkable(model):
            walk = Decoder(model)
            if self._agrees(packed, packed_batches):
                return "packed", packed, packed_batches
        if self._agrees(padded, padded_batches):
            return "padded", padded, padded_batches
        return "whole", whole, padded_batches

    @torch.inference_mode()
    def _agrees(self, forward: Forward, batches: Batches) -> bool:
        config = self.model.config.get_text_config()
        trunk = [(7 * i + 3) % config.vocab_size for i in range(30)]
        prompts = [trunk[:length] for length in (1, 12, 25, 30)]
        targets = [[(11 * i + length) % config.vocab_size for i in range(length)] for length in (5, 1, 9, 3)]
        expected = []
        for prompt, target in zip(prompts, targets, strict=True):
            ids = self._to_device(np.array([prompt + target], dtype=np.int64))
            logprobs = (
                self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            )
            expected.append(logprobs.gather(1, ids[0, len(prompt) :, None]).sum().item())
        sequences, sums = Sequences.of(prompts, targets), np.zeros(len(prompts))
        try:
            for batch in batches(sequences, 1 << 20):
                sums[batch.sequences] = self._sums(batch, forward).cpu().numpy()
        except (TypeError, AttributeError, RuntimeError, ValueError) as error:
            _log.info("this architecture cannot be run %s (%s)", forward.__name__, error)
            return False
        gaps = np.abs(sums - expected)
        if self.model.dtype == torch.float32:
            return bool((gaps / sequences.targets).max() <= 1e-4)
        # The model's own logits are rounded to its dtype, by up to some hundredths each.
        return bool(gaps.sum() / sequences.targets.sum() <= 0.05)


class _Results:
    """Sums of batches, left on the device until they are wanted: on a GPU the next batch is laid out while one is computed."""

    def __init__(self, result: np.ndarray, keep: Keep | None, every: float):
        self._result, self._keep, self._every = result, keep, every
        self._waiting: list[tuple[np.ndarray, torch.Tensor]] = []
        self._settled = time.monotonic()

    def has(self, rows: np.ndarray) -> bool:
        return not np.isnan(self._result[rows]).any()

    def take(self, rows: np.ndarray, sums: torch.Tensor) -> None:
        self._waiting.append((rows, sums))
        if time.monotonic() - self._settled >= self._every:
            self.settle()

    def settle(self) -> None:
        """Read all sums back and hand them on."""
        for rows, sums in self._waiting:
            self._result[rows] = sums.cpu().numpy()
        if self._keep and self._waiting:
            rows = np.concatenate([rows for rows, _ in self._waiting])
            self._keep(rows, self._result[rows])
        self._waiting, self._settled = [], time.monotonic()


def _chosen(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(dim=1)


def _chunks(count: int, logits: torch.Tensor) -> list[slice]:
    size = max(1, _CHUNK_BYTES // (4 * logits.shape[-1]))
    return [slice(start, start + size) for start in range(0, count, size)]


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )
