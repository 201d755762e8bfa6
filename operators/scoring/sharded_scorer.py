"""A scorer whose model is split over several devices of one machine, in place of a `TargetScorer`: a process for each device.

All processes hold a slice of every layer and run the same scorer over the same pairs, so they meet, in the same order, in the
sums that join the slices. The caller's process is the first, and the others do what it is asked (`shard_process`). One that
fails would leave the others waiting for it, or meet them out of step: then all are ended, and the scorer is of no use any more.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from operators.error_text import first_line
from operators.model_files import ModelProblem
from operators.scoring.batching import Ids
from operators.scoring.scorer import Keep
from operators.scoring.shard_process import LOADING, Shard, join, leave, packed, prepare, stop_waiting, totals_of

_Result = TypeVar("_Result")
_PATIENCE = 60.0  # seconds that one may take longer than another over the same pairs
_SOON = 5.0  # seconds in which one that has failed has said so, and in which all notice
_SAME = 1e-6  # relative difference of totals between processes, which get the same sums to the last bits
_FAILED = "a process of those that the model is split over has failed: "


class ShardsEnded(RuntimeError):
    """A scorer whose processes are not together any more."""


class _NotKept(Exception):
    """What the caller's `keep` has raised is the cause of this."""


class ShardedScorer:
    """Sums of target log-probabilities under a model that is split over `shards` devices: GPUs where this process has some,
    else processes on the CPU. A process makes no more than one at a time.

    `model` holds the arguments of `load_model`; `batch_tokens` (None: what the memory of all devices is enough for) and
    `longest` are as for `TargetScorer`, whose methods these are.

    Raises ModelProblem where the model cannot be loaded, and ShardsEnded where a process fails, from then on each time.
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
        self._shards: list[Shard] = []
        self._close = weakref.finalize(self, _close, self._shards, folder)
        failure, answers = None, []
        try:
            for rank in range(1, shards):
                self._shards.append(Shard({**opening, "rank": rank}))
            prepare(0)
            answers = [shard.answer(LOADING) for shard in self._shards]
            if not any("problem" in answer for answer in answers):
                with _watched(self._shards):
                    self._scorer = join(0, **opening)
        except Exception as error:  # noqa: BLE001 - raised below, once it is known who else fails
            failure = error
        except BaseException:
            self._close()
            raise
        if not any("problem" in answer for answer in answers):
            answers = [shard.answer(_PATIENCE if failure is None else _SOON) for shard in self._shards]
        if problem := _problem(failure, answers):
            self._close()
            if isinstance(failure, ModelProblem):
                raise failure
            raise ShardsEnded(_FAILED + problem) from failure
        ways = sorted({self._scorer.way, *(str(answer["way"]) for answer in answers)})
        if len(ways) > 1:
            self._close()
            raise ShardsEnded(f"the processes that a model is split over run it in different ways: {', '.join(ways)}")

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
        kept = None if keep is None else partial(_keep, keep)
        run = partial(self._scorer.sums, prompts, targets, finished=finished, keep=kept, every=every)
        return self._together("sums", packed(prompts, targets, finished), run, lambda sums: totals_of([sums]))

    def logprobs(self, prompts: Sequence[Ids], targets: Sequence[Ids]) -> list[np.ndarray]:
        """As `TargetScorer.logprobs`."""
        run = partial(self._scorer.logprobs, prompts, targets)
        return self._together("logprobs", packed(prompts, targets, None), run, totals_of)

    def works(self) -> bool:
        """As `TargetScorer.works`."""
        return self._together("works", [], self._scorer.works, lambda works: [float(works)])

    def _together(
        self, what: str, arrays: list[np.ndarray], run: Callable[[], _Result], totals: Callable[[_Result], list[float]]
    ) -> _Result:
        """What this process gets, where all others get the same."""
        if self._ended is not None:
            raise ShardsEnded(self._ended)
        self._ended = f"{_FAILED}it was interrupted"  # until all are done
        failure = None
        try:
            for shard in self._shards:
                shard.ask(what, arrays)
            with _watched(self._shards):
                result = run()
        except Exception as error:  # noqa: BLE001 - raised below, once it is known who else fails
            failure = error
        answers = [shard.answer(_PATIENCE if failure is None else _SOON) for shard in self._shards]
        problem = _problem(failure, answers)
        if problem is None and not all(_same(answer["totals"], totals(result)) for answer in answers):
            problem = "the processes got different numbers for the same pairs"
        if problem is not None:
            self._ended = _FAILED + problem
            self._close()
            if isinstance(failure, _NotKept) and failure.__cause__ is not None:
                raise failure.__cause__
            raise ShardsEnded(self._ended) from failure
        self._ended = None
        return result


def _keep(keep: Keep, rows: np.ndarray, sums: np.ndarray) -> None:
    """Let the caller keep sums; raises _NotKept from what it raises."""
    try:
        keep(rows, sums)
    except Exception as error:
        raise _NotKept from error


def _problem(failure: Exception | None, answers: list[dict[str, Any]]) -> str | None:
    """The first of what went wrong, as far as can be told: what another process says comes before what its end did to this."""
    by_kind: dict[str | None, list[str]] = {None: [], "ended": [], "late": []}
    for answer in answers:
        if "problem" in answer:
            by_kind[answer.get("lost")].append(str(answer["problem"]))
    here = [] if failure is None else [f"{type(failure).__name__}: {first_line(failure)}"]
    return next(iter([*by_kind[None], *by_kind["ended"], *here, *by_kind["late"]]), None)


def _same(some: list[float], others: list[float]) -> bool:
    return all(math.isclose(own, other, rel_tol=_SAME, abs_tol=_SAME) for own, other in zip(some, others, strict=True))


@contextmanager
def _watched(shards: list[Shard]) -> Iterator[None]:
    """While it lasts, a process that fails ends all soon after: what this one waits for will not come."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if any(shard.failed.is_set() for shard in shards) and not over.wait(_SOON):
                for shard in shards:
                    shard.end()
                stop_waiting()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _close(shards: list[Shard], folder: str) -> None:
    for shard in shards:
        shard.end()
    leave()
    shutil.rmtree(folder, ignore_errors=True)
