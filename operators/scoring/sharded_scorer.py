"""A scorer whose model is split over several devices of one machine, in place of a `TargetScorer`: a process for each device.

All processes hold a slice of every layer and run the same scorer over the same pairs, so they meet, in the same order, in the
sums that join the slices. The caller's process is the first. The others are asked through their standard input, which ends when
the caller's process does, and answer with the total of what they got. A process that fails where the others do not leaves them
waiting for it: then all are ended, and the scorer is of no use any more.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from operators.error_text import first_line
from operators.model_files import ModelProblem
from operators.scoring.batching import Ids
from operators.scoring.scorer import Keep
from operators.scoring.shard_process import LOADING, Shard, join, packed, total_of, total_of_all

_Result = TypeVar("_Result")
_PATIENCE = 60.0  # seconds that one may take longer than another over the same pairs
_SOON = 2.0  # seconds in which one that has failed has said so
_SAME = 1e-3  # relative difference of totals between processes: all get the same sums to the last bits


class ShardsEnded(RuntimeError):
    """A scorer whose processes are not together any more."""


class ShardedScorer:
    """Sums of target log-probabilities under a model that is split over `shards` devices: GPUs where this process has some,
    else processes on the CPU.

    `model` holds the arguments of `load_model`; `batch_tokens` (None: what the memory of all devices is enough for) and
    `longest` are as for `TargetScorer`, whose methods these are.

    Raises ModelProblem where the model cannot be loaded, ShardsEnded where a process fails that others wait for.
    """

    def __init__(self, model: dict[str, Any], shards: int, batch_tokens: int | None, longest: int | None):
        folder = tempfile.mkdtemp(prefix="tss-shards-")
        opening: dict[str, Any] = {
            "shards": shards,
            "meeting": f"{folder}/meeting",
            "model": model,
            "batch_tokens": batch_tokens,
            "longest": longest,
            "threads": torch.get_num_threads(),
        }
        self._ended: str | None = None
        self._shards = [Shard({**opening, "rank": rank}) for rank in range(1, shards)]
        self._close = weakref.finalize(self, _close, self._shards, folder)
        try:
            self._scorer = join(0, **opening)
            answers = [shard.answer(LOADING) for shard in self._shards]
        except BaseException as error:
            answers = [shard.answer(_SOON) for shard in self._shards]
            self._close()
            problems = [answer["problem"] for answer in answers if "problem" in answer and "lost" not in answer]
            if problems and not isinstance(error, ModelProblem):
                raise ShardsEnded(
                    f"a process of those that the model is split over has failed: {problems[0]}"
                ) from error
            raise
        ways = {self._scorer.way, *(answer.get("way", answer.get("problem")) for answer in answers)}
        if len(ways) > 1:
            self._close()
            raise ShardsEnded(
                f"the processes that a model is split over run it in different ways: {sorted(map(str, ways))}"
            )

    @property
    def model(self) -> Any:
        return self._scorer.model

    @property
    def device(self) -> torch.device:
        device: torch.device = self._scorer.device
        return device

    @property
    def way(self) -> str:
        return self._scorer.way

    @property
    def batch_tokens(self) -> int:
        return self._scorer.batch_tokens

    @property
    def forwarded_tokens(self) -> int:
        return self._scorer.forwarded_tokens

    @property
    def padding_tokens(self) -> int:
        return self._scorer.padding_tokens

    def sums(
        self,
        prompts: Sequence[Ids],
        targets: Sequence[Ids],
        *,
        finished: np.ndarray | None = None,
        keep: Keep | None = None,
        every: float = float("inf"),
    ) -> np.ndarray:
        """As `TargetScorer.sums`."""

        def run() -> np.ndarray:
            return self._scorer.sums(prompts, targets, finished=finished, keep=keep, every=every)

        return self._together("sums", packed(prompts, targets, finished), run, total_of)

    def logprobs(self, prompts: Sequence[Ids], targets: Sequence[Ids]) -> list[np.ndarray]:
        """As `TargetScorer.logprobs`."""

        def run() -> list[np.ndarray]:
            return self._scorer.logprobs(prompts, targets)

        return self._together("logprobs", packed(prompts, targets, None), run, total_of_all)

    def works(self) -> bool:
        """As `TargetScorer.works`."""
        return self._together("works", [], self._scorer.works, float)

    def _together(
        self, what: str, arrays: list[np.ndarray], run: Callable[[], _Result], total: Callable[[_Result], float]
    ) -> _Result:
        """What this process gets, where all others get the same; what all of them fail on is raised as it is."""
        if self._ended is not None:
            raise ShardsEnded(self._ended)
        failure = None
        try:
            for shard in self._shards:
                shard.ask(what, arrays)
            result = run()
        except Exception as error:  # noqa: BLE001 - raised below, once it is known who else fails
            failure = error
        answers = [shard.answer(_PATIENCE) for shard in self._shards]
        if failure is not None and all("problem" in answer and "lost" not in answer for answer in answers):
            raise failure
        problems = [str(answer["problem"]) for answer in answers if "problem" in answer]
        if failure is not None:
            problems.insert(0, f"{type(failure).__name__}: {first_line(failure)}")
        elif not problems and not all(_same(answer["total"], total(result)) for answer in answers):
            problems.append("the processes got different numbers for the same pairs")
        if problems:
            self._ended = f"a process of those that the model is split over has failed: {problems[0]}"
            self._close()
            raise ShardsEnded(self._ended) from failure
        return result


def _same(one_total: float, other_total: float) -> bool:
    near = math.isclose(one_total, other_total, rel_tol=_SAME, abs_tol=_SAME)
    return near or (math.isnan(one_total) and math.isnan(other_total))


def _close(shards: list[Shard], folder: str) -> None:
    for shard in shards:
        shard.process.kill()
        shard.process.wait()
    if dist.is_initialized():
        dist.destroy_process_group()
    for path in Path(folder).glob("*"):
        path.unlink()
    Path(folder).rmdir()
