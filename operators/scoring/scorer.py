"""Log-likelihoods of target tokens under a causal LM: no token computed twice, no padding masks, no full logits.

Sequences of a call that begin alike share that work (`trie`), by our walk through the layers (`decoder`) or by the model's own
modules (`packed_modules`); architectures that neither knows are run on padded batches of similar length instead. Only positions
that predict a target reach the output head, whose log-softmax is float32 and never holds all logits (`head`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from operators.model_files import ModelProblem
from operators.scoring.attention import Layout
from operators.scoring.batching import Batch, Ids, Segments, Sequences, packed_batches, padded_batches
from operators.scoring.decoder import Decoder, rotation_changes, walkable
from operators.scoring.head import chosen_logprobs, finish_of, gathered_logprobs, target_logprobs, tiled
from operators.scoring.packed_modules import PackedModules, packable
from operators.scoring.probe import Probe, Trial, agree
from operators.scoring.sharding import all_agree, is_sharded

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 32 << 20  # float32 logits taken at once from a model that is run whole
_FEW, _TOGETHER = 40, 1 << 20  # tokens of a batch of trials: one or two sequences, and all

# From a batch, the places of its targets' predictors [M] and the target ids [M]: their log-probabilities, float32 [M].
Forward = Callable[[Batch, torch.Tensor, torch.Tensor], torch.Tensor]
Batches = Callable[[Sequences, int], Iterator[Batch]]
Compute = Callable[[Batch, Forward], torch.Tensor]  # sums [B], or log-probabilities [M]
Keep = Callable[[np.ndarray, np.ndarray], None]


class TargetScorer:
    """Sums of target log-probabilities under one model.

    `model` is any causal LM of transformers; `batch_tokens` bounds the tokens of a forward pass. When memory runs out on a
    batch, the bound is halved and the batch is cut, down to one sequence; then the error is raised. `longest` is the most
    tokens that a sequence will have, where that is known. Of a model that is a slice of a sharded one, no batch is cut. Raises
    ModelProblem for a model that is not causal.
    """

    def __init__(self, model: Any, batch_tokens: int, longest: int | None = None):
        self.model, self.batch_tokens = model, batch_tokens
        self.device = next(model.parameters()).device
        self.forwarded_tokens = 0  # with padding
        self.padding_tokens = 0
        self._changes = rotation_changes(model.config.get_text_config())
        self._probe = Probe(model, longest, self._forget_lengths)
        self._require_causal()
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
            self._score(Sequences.of(prompts, targets), np.arange(len(prompts)), results, self._sums)
            results.settle()
        return result

    def logprobs(self, prompts: Sequence[Ids], targets: Sequence[Ids]) -> list[np.ndarray]:
        """For each pair what `sums` adds up, by the same way through the model: float32 [T], for each target id log p(id | all
        ids before it), natural log. Every prompt and every target has at least one id."""
        if not len(prompts):
            return []
        sequences = Sequences.of(prompts, targets)
        terms = _Terms(sequences.targets)
        self._score(sequences, np.arange(len(prompts)), terms, self._logprobs)
        return terms.of_pairs

    def works(self) -> bool:
        """Whether the scorer still gives the model's own numbers for fixed ids: if so, what it fails on is at fault. What the
        model raises is raised."""
        return self._agrees(self.way, self._forward, self._batches, [self._probe.short()])

    def _require_causal(self) -> None:
        length = self._probe.looks_ahead()
        if length is not None:
            raise self._problem(
                f"the model is not causal: among {length} tokens, the likelihood of one changes with those that follow it; "
                "accepted: a causal (decoder-only) language model"
            )

    def _problem(self, what: str) -> ModelProblem:
        return ModelProblem(f"scorer.model: {getattr(self.model.config, 'name_or_path', '')!r}: {what}")

    @torch.inference_mode()
    def _forget_lengths(self) -> None:
        """Bring a model to the rotations of short sequences: dynamic ones are those of the longest that it has seen since."""
        if any(change.each for change in self._changes):
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=self.device), use_cache=False)

    def _score(self, sequences: Sequences, indices: np.ndarray, results: _Results | _Terms, compute: Compute) -> None:
        for batch in self._batches(sequences, self.batch_tokens):
            rows = indices[batch.sequences]
            if results.has(rows):
                continue
            try:
                results.take(rows, compute(batch, self._forward))
                self.forwarded_tokens += batch.ids.size
                self.padding_tokens += batch.padding
                continue
            except (torch.OutOfMemoryError, RuntimeError) as error:
                # Processes that share a sharded model would wait for batches that this one does not make.
                if not _is_out_of_memory(error) or len(batch.sequences) == 1 or is_sharded(self.model):
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
            self._score(sequences.take(batch.sequences), rows, results, compute)

    @torch.inference_mode()
    def _logprobs(self, batch: Batch, forward: Forward) -> torch.Tensor:
        """Float32 [M] on the device: of each target."""
        self._forget_lengths()
        return forward(batch, self._to_device(batch.places), self._to_device(batch.wanted))

    @torch.inference_mode()
    def _sums(self, batch: Batch, forward: Forward) -> torch.Tensor:
        """Float64 [B] on the device."""
        owners_M = self._to_device(batch.owners)
        chosen_M = self._logprobs(batch, forward)
        sums_B = torch.zeros(len(batch.sequences), dtype=torch.float64, device=self.device)
        return sums_B.index_add_(0, owners_M, chosen_M.double())

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _fastest_way(self) -> tuple[str, Forward, Batches]:
        """Its name, how to run a batch, and how to make batches. Each way is compared first with the model's own logits for one
        sequence at a time: architectures do more between decoder and head than any list of configuration keys tells."""
        trials = self._probe.all()
        for way, forward, batches in self._ways():
            if self._agrees(way, forward, batches, trials):
                return way, forward, batches
        raise self._problem("the model gives other numbers for the same tokens each time; accepted: one that does not")

    def _ways(self) -> Iterator[tuple[str, Forward, Batches]]:
        """The ways in which a model may be run, the fastest first."""
        model = self.model
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        alike = partial(padded_batches, changes=self._changes)

        def whole(batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor) -> torch.Tensor:
            logits = model(input_ids=self._to_device(batch.ids), use_cache=False).logits.flatten(0, 1)
            return torch.cat(
                [chosen_logprobs(logits[places_M[rows]], wanted_M[rows]) for rows in _chunks(len(wanted_M), logits)]
            )

        if decoder is not model and tiled(model):
            logprobs = partial(gathered_logprobs if is_sharded(model) else target_logprobs, head, finish_of(model))

            def padded(batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor) -> torch.Tensor:
                hidden = decoder(input_ids=self._to_device(batch.ids), use_cache=False).last_hidden_state
                return logprobs(hidden.flatten(0, 1)[places_M], wanted_M)

            def packed(
                run: Decoder | PackedModules, batch: Batch, places_M: torch.Tensor, wanted_M: torch.Tensor
            ) -> torch.Tensor:
                layout = Layout(cast("Segments", batch.segments), self.device)  # packed batches have segments
                hidden = run.hidden(self._to_device(batch.ids), layout, places_M)
                return logprobs(hidden, wanted_M)

            if walkable(model) and not is_sharded(model):
                yield "walked", partial(packed, Decoder(model)), packed_batches
            if packable(model):
                yield "packed", partial(packed, PackedModules(model)), packed_batches
            yield "padded", padded, alike
        yield "whole", whole, alike
        # Where what stands in a batch changes what the others give.
        yield "alone", whole, lambda sequences, batch_tokens: alike(sequences, 1)

    @torch.inference_mode()
    def _agrees(self, way: str, forward: Forward, batches: Batches, trials: list[Trial]) -> bool:
        """Whether a way gives for all sequences of each trial together what the model gives for each by itself; the first
        trial, which is short, in small batches too."""
        tried = []
        for trial, batch_tokens in [(trials[0], _FEW), *((trial, _TOGETHER) for trial in trials)]:
            sequences, sums = Sequences.of(trial.prompts, trial.targets), np.zeros(len(trial.prompts))
            try:
                for batch in batches(sequences, batch_tokens):
                    sums[batch.sequences] = self._sums(batch, forward).cpu().numpy()
            except (TypeError, AttributeError, RuntimeError, ValueError) as error:
                if is_sharded(self.model):
                    raise  # others may go on where this process has failed
                _log.info("this architecture cannot be run %s (%s)", way, error)
                return False
            tried.append((trial, sums))
        agrees = agree(tried, self.model.dtype)
        return all_agree(agrees, self.device) if is_sharded(self.model) else agrees


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


class _Terms:
    """Log-probabilities of targets, of sequences that have so many each; nothing of them is known before."""

    def __init__(self, counts: np.ndarray):
        self._counts = counts
        self.of_pairs = [np.zeros(0, dtype=np.float32) for _ in counts]

    def has(self, rows: np.ndarray) -> bool:
        return False

    def take(self, rows: np.ndarray, logprobs: torch.Tensor) -> None:
        # The targets of a batch stand sequence after sequence (`Sequences.targets_of`).
        pieces = np.split(logprobs.cpu().numpy(), np.cumsum(self._counts[rows])[:-1])
        for row, piece in zip(rows.tolist(), pieces, strict=True):
            self.of_pairs[row] = piece


def _chunks(count: int, logits: torch.Tensor) -> list[slice]:
    size = max(1, _CHUNK_BYTES // (4 * logits.shape[-1]))
    return [slice(start, start + size) for start in range(0, count, size)]


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )
