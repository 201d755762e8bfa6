"""Fixed sequences on which a scorer is tried before it is trusted: what the model gives for each of them by itself, and whether
the model is causal at all.

They are short, longer than blocks of attention are (128 positions), and longer than each window of attention: what a way of
running a model gets wrong may show only there. No sequence is longer than any that will be scored, so a window that none of
those reaches is not tried.

Targets are random tokens in float32, where every way gives the same number to some 1e-6. Narrower types round, and the more so
the less likely a token is: there targets are tokens that the model would write, as most of a corpus is, and no way may err by
more than the model itself does, both against the same weights in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from operators.scoring.sharding import is_sharded

Ids = list[int]

_SHORT, _PAST_BLOCKS, _PAST_WINDOW = 12, 136, 24  # tokens; the last beyond the end of a window
_CHANGED, _WATCHED = 40, 6  # last tokens of a sequence that are changed, and those before them that must not notice
_MOST = 1 << 13  # tokens of a sequence
# Differences of a log-probability, in float32 and in narrower types: these round each logit by up to some hundredths, and deep
# models with large activations by more. There a way may err so many times as far as the model run by itself.
_EXACT, _ROUNDED, _AS_FAR = 1e-4, 0.05, 2.0
# Of a causal model differences come from experts that get other numbers of tokens; one that looks ahead differs by far more.
_CAUSAL_EXACT, _CAUSAL_ROUNDED = 1e-3, 0.1
# Targets that the model would write: so many of a sequence, each a pass, and so many places below the likeliest token, which
# may be so sure that no error shows.
_WRITTEN, _LIKELY = 2, 3


@dataclass(frozen=True)
class Trial:
    """Sequences with the sum of log-probabilities that the model gives for the targets of each, one sequence at a time, and
    the one that it gives in float32, where it is run in a narrower type and there is room to know."""

    prompts: list[Ids]
    targets: list[Ids]
    expected: np.ndarray  # float64 [N]
    exact: np.ndarray | None = None  # float64 [N]


class Probe:
    """What is tried of one model. `fresh` is called before each run of it, `longest` bounds the sequences that will be scored
    (None: nothing is known)."""

    def __init__(self, model: Any, longest: int | None, fresh: Callable[[], None]):
        self._model, self._fresh = model, fresh
        self._device = next(model.parameters()).device
        config = model.config.get_text_config()
        self._vocabulary: int = config.vocab_size
        self._config = config
        self._lengths = self._of_use(longest)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def _of_use(self, longest: int | None) -> list[int]:
        """The lengths that are tried, shortest first."""
        keys = ("max_position_embeddings", "n_positions", "max_seq_len")
        positions = next((n for key in keys if isinstance(n := getattr(self._config, key, None), int)), None)
        most = min([_MOST, *(bound for bound in (longest, positions) if bound)])
        # Of the layers, and of the configuration where layers do not tell.
        named = {getattr(part, "sliding_window", None) for part in (*self._model.modules(), self._config)}
        windows = {window for window in named if isinstance(window, int) and 0 < window < most}
        wanted = {_SHORT, _PAST_BLOCKS, *(window + _PAST_WINDOW for window in windows)}
        return sorted({min(length, most) for length in wanted})

    def _ids(self, length: int) -> Ids:
        return list(np.random.default_rng(0).integers(0, self._vocabulary, length).tolist())

    def short(self) -> Trial:
        """Sequences of up to 34 tokens that share beginnings."""
        trunk = [(7 * i + 3) % self._vocabulary for i in range(30)]
        prompts = [trunk[:length] for length in (1, 12, 25, 30)]
        targets = [[(11 * i + length) % self._vocabulary for i in range(length)] for length in (5, 1, 9, 3)]
        return self._trial(prompts, targets)

    def all(self) -> list[Trial]:
        """`short`, and for each length beyond it three sequences: two share all but their ends, and their first half with the
        third, so that what they share goes on from what all share."""
        trials = [self.short()]
        for length in self._lengths[1:]:
            ids, end = self._ids(length), min(15, length // 2)
            prompts = [ids[:-5], ids[:-end], ids[: length // 2]]
            trials.append(self._trial(prompts, [ids[-5:], ids[-2:], ids[-3:]]))
        return trials

    def _trial(self, prompts: list[Ids], targets: list[Ids]) -> Trial:
        if self._model.dtype == torch.float32:
            return Trial(prompts, targets, self._sums(prompts, targets))
        counts = [min(_WRITTEN, len(target)) for target in targets]
        targets = [self._likely(prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
        expected, exact = self._sums(prompts, targets), None
        if has_room(self._model):
            with in_float32(self._model):
                exact = self._sums(prompts, targets)
        return Trial(prompts, targets, expected, exact)

    def _sums(self, prompts: list[Ids], targets: list[Ids]) -> np.ndarray:
        return np.array([self._sum(prompt, target) for prompt, target in zip(prompts, targets, strict=True)])

    def _likely(self, prompt: Ids, count: int) -> Ids:
        """So many tokens that the model might write after a prompt."""
        written: Ids = []
        for _ in range(count):
            (row,) = self._last_logprobs([*prompt, *written], 1)
            places = min(_LIKELY + 1, len(row))
            written.append(int(row.nan_to_num(-torch.inf).topk(places).indices[-1]))
        return written

    def _sum(self, prompt: Ids, target: Ids) -> float:
        rows = self._last_logprobs([*prompt, *target], len(target) + 1)[:-1]
        return rows.gather(1, torch.tensor(target, device=rows.device)[:, None]).sum().item()

    @torch.inference_mode()
    def _last_logprobs(self, ids: Ids, count: int) -> torch.Tensor:
        """Float32 [count, V]: log-probabilities of what follows each of the last tokens."""
        self._fresh()
        options = {"logits_to_keep": count} if self._keeps else {}
        logits = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False, **options).logits
        return torch.log_softmax(logits[0, -count:].float(), -1)

    def looks_ahead(self) -> int | None:
        """The length at which the model is seen to predict tokens from those that follow them; None where it is causal."""
        limit = _CAUSAL_EXACT if self._model.dtype == torch.float32 else _CAUSAL_ROUNDED
        return next((length for length in self._lengths if self._moved(length) > limit), None)

    def _moved(self, length: int) -> float:
        """How much the last tokens of a sequence change log-probabilities of tokens before them: the nearest, on the mean."""
        changed = min(_CHANGED, length // 2)
        watched = min(_WATCHED, length - changed)
        ids = self._ids(length)
        others = [*ids[:-changed], *((id + 1 + place) % self._vocabulary for place, id in enumerate(ids[-changed:]))]
        before, after = (self._last_logprobs(each, changed + watched)[:watched] for each in (ids, others))
        following = torch.tensor(ids[length - changed - watched + 1 :][:watched], device=before.device)[:, None]
        return (before.gather(1, following) - after.gather(1, following)).abs().mean().item()


def has_room(model: Any) -> bool:
    """Whether a model can be run in float32: its weights are plain numbers, which quantised ones are not without their scales,
    and take at most a quarter of the memory that is free where they are. The processes of a sharded one might each decide
    otherwise, so it has none."""
    narrow = any(weight.is_floating_point() and weight.element_size() < 2 for weight in model.parameters())
    if (
        narrow
        or is_sharded(model)
        or getattr(model, "is_quantized", False)
        or getattr(model.config, "quantization_config", None)
    ):
        return False
    device = next(model.parameters()).device
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return bool(4 * 4 * sum(weight.numel() for weight in model.parameters()) <= free)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """The model with its weights and buffers in float32, and then as it was: the same tensors, to the last bit."""
    tensors = [*model.parameters(), *model.buffers()]
    narrow = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.dtype != torch.float32]
    kept = [tensor.data for tensor in narrow]
    try:
        for tensor in narrow:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(narrow, kept, strict=True):
            tensor.data = data


def agree(tried: Sequence[tuple[Trial, np.ndarray]], dtype: torch.dtype) -> bool:
    """Whether sums [N] of trials are those that the model gives. What a model gives no number for is equal to no number: rows
    that have it are rejected, and the others are scored. In a narrow type all trials are judged together, since where each
    token is off by its own amount few of them tell little, and each by itself less strictly."""
    off, own_off, tokens = [], [], []
    for trial, sums in tried:
        expected = trial.expected
        if not np.array_equal(np.isfinite(sums), numbers := np.isfinite(expected)):
            return False
        counts = np.array([len(target) for target in trial.targets])[numbers]
        if dtype == torch.float32:
            if (np.abs(sums[numbers] - expected[numbers]) / counts).max(initial=0) > _EXACT:
                return False
            continue
        known = trial.exact is not None and np.isfinite(trial.exact[numbers]).all()
        own = trial.exact if known and trial.exact is not None else expected
        off.append(np.abs(sums[numbers] - own[numbers]).sum())
        own_off.append(np.abs(expected[numbers] - own[numbers]).sum())
        tokens.append(int(counts.sum()))
    a_token = max(_ROUNDED, _AS_FAR * sum(own_off) / max(1, sum(tokens)))
    apart = all(far <= _AS_FAR * a_token * count for far, count in zip(off, tokens, strict=True))
    return apart and bool(sum(off) <= a_token * sum(tokens))
