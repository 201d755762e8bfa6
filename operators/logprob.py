"""Log-likelihoods of target tokens under a causal LM, without padding masks and without full logits.

Sequences are padded on the right and the model is causal, so no position that counts ever sees padding, and no mask is
needed. Only target positions reach the output head, in chunks, and the log-softmax is float32 whatever the model's dtype.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from operators.batching import length_batches
from operators.encode import Ids

_log = logging.getLogger(__name__)
_HEAD_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}  # float32 logits of one chunk of target positions


class TargetScorer:
    """Sums of target log-probabilities under one model.

    `model` is any causal LM of transformers; `batch_tokens` bounds the padded tokens of a forward pass. When memory runs
    out on a batch, the batch is halved and the bound with it, down to one sequence; then the error is raised.
    """

    def __init__(self, model: Any, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self.device = next(model.parameters()).device
        self.forwarded_tokens = 0  # with padding
        self._hidden_logits = _split_model(model)

    def sums(self, prompts: list[Ids], targets: list[Ids]) -> np.ndarray:
        """Float64 [N]: for each pair the sum over its target ids of log p(id | all ids before it), natural log.

        Every prompt and every target has at least one id.
        """
        lengths = np.array([len(p) + len(t) for p, t in zip(prompts, targets, strict=True)], dtype=np.int64)
        result = np.zeros(len(prompts))
        for batch in length_batches(lengths, self.batch_tokens):
            self._score(batch, prompts, targets, result)
        return result

    def _score(self, batch: np.ndarray, prompts: list[Ids], targets: list[Ids], result: np.ndarray) -> None:
        try:
            result[batch] = self._forward([prompts[i] for i in batch], [targets[i] for i in batch])
            return
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or len(batch) == 1:
                raise
        # Outside the handler: the exception would keep the failed batch's tensors alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_tokens = max(1, self.batch_tokens // 2)
        _log.warning(
            "out of memory on a batch of %d sequences: halved, batch_tokens is now %d", len(batch), self.batch_tokens
        )
        middle = len(batch) // 2
        self._score(batch[:middle], prompts, targets, result)
        self._score(batch[middle:], prompts, targets, result)

    @torch.inference_mode()
    def _forward(self, prompts: list[Ids], targets: list[Ids]) -> np.ndarray:
        width = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
        ids_BT = np.zeros((len(prompts), width), dtype=np.int64)  # any id pads: it stands after all that counts
        places, wanted, owners = [], [], []
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            ids_BT[row, : len(prompt)] = prompt
            ids_BT[row, len(prompt) : len(prompt) + len(target)] = target
            # The hidden state at t predicts id t + 1, so a target's predictors start one place before it.
            first = row * width + len(prompt) - 1
            places.append(np.arange(first, first + len(target)))
            wanted.append(target)
            owners.append(np.full(len(target), row))
        places_M, wanted_M, owners_M = (
            torch.from_numpy(np.concatenate(part)).to(self.device) for part in (places, wanted, owners)
        )
        self.forwarded_tokens += ids_BT.size
        hidden_MD, logits_of = self._hidden_logits(torch.from_numpy(ids_BT).to(self.device), places_M)
        sums_B = torch.zeros(len(prompts), dtype=torch.float64, device=self.device)
        for rows in _chunks(len(wanted_M), self.model.config.get_text_config().vocab_size, self.device.type):
            logits = logits_of(hidden_MD[rows]).float()
            chosen = logits.gather(1, wanted_M[rows, None]).squeeze(1) - logits.logsumexp(dim=1)
            sums_B.index_add_(0, owners_M[rows], chosen.double())
        return sums_B.cpu().numpy()


Logits = Callable[[torch.Tensor], torch.Tensor]
HiddenLogits = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Logits]]


def _split_model(model: Any) -> HiddenLogits:
    """How to get hidden states at some places, and logits from them.

    Decoder and output head are called apart. Some architectures do more between them than the configuration's known soft
    cap and scales; so a probe compares with the model's own logits, and a model that disagrees is run whole: slower and
    right.
    """
    decoder, head, config = model.get_decoder(), model.get_output_embeddings(), model.config.get_text_config()

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        logits = (
            head(hidden)
            * (getattr(config, "logit_scale", None) or 1.0)
            / (getattr(config, "logits_scaling", None) or 1.0)
        )
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def apart(ids_BT: torch.Tensor, places_M: torch.Tensor) -> tuple[torch.Tensor, Logits]:
        hidden = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[places_M], logits_of

    def whole(ids_BT: torch.Tensor, places_M: torch.Tensor) -> tuple[torch.Tensor, Logits]:
        return model(input_ids=ids_BT, use_cache=False).logits.flatten(0, 1)[places_M], lambda logits: logits

    return apart if head is not None and decoder is not model and _agree(model, apart) else whole


@torch.inference_mode()
def _agree(model: Any, apart: HiddenLogits) -> bool:
    device = next(model.parameters()).device
    probe = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    own = model(input_ids=probe, use_cache=False).logits[0].float().log_softmax(-1)
    try:
        hidden, logits_of = apart(probe, torch.arange(8, device=device))
        ours = logits_of(hidden).float().log_softmax(-1)
    except (TypeError, AttributeError, RuntimeError) as error:
        _log.info("this architecture is run whole (%s)", error)
        return False
    tolerance = 1e-4 if own.dtype == model.dtype else 0.05
    return bool((own - ours).abs().max() <= tolerance)


def _chunks(count: int, vocabulary: int, device: str) -> list[slice]:
    size = max(1, _HEAD_CHUNK_BYTES.get(device, 32 << 20) // (4 * vocabulary))
    return [slice(start, start + size) for start in range(0, count, size)]


def _is_out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "can't allocate memory" in str(error)
    )
