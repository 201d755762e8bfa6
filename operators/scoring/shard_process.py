"""A process that holds one slice of a sharded scorer, and how the first process speaks with it.

It is asked through its standard input, which ends when the first process does, and answers with what came of it, in lines of
JSON. What fails in it is answered too, and ends it; the first process then ends all.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist

from operators.child_process import python_command
from operators.error_text import first_line
from operators.scoring.batch_budget import batch_tokens
from operators.scoring.batching import Ids
from operators.scoring.models import device_of, load_model
from operators.scoring.scorer import TargetScorer

LOADING = 1800.0  # seconds until all have loaded their slices, and for one sum over all
_CHILD = "from operators.scoring import shard_process; shard_process.serve()"
_Asked = tuple[dict[str, Any], list[np.ndarray]]


class Shard:
    """Another process of a sharded scorer, as the first sees it. `opening` holds the arguments of `join`."""

    def __init__(self, opening: dict[str, Any]):
        self._rank = opening["rank"]
        self._process = subprocess.Popen(python_command(_CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.failed = threading.Event()  # it has answered with a problem, or ended
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        self.ask("join", [], opening=opening)

    def ask(self, what: str, arrays: list[np.ndarray], **more: Any) -> None:
        """Raises OSError where the process is gone."""
        assert self._process.stdin  # noqa: S101 - it is a pipe
        head = {"what": what, "arrays": [[array.dtype.str, len(array)] for array in arrays], **more}
        self._process.stdin.write(json.dumps(head).encode() + b"\n")
        for array in arrays:
            self._process.stdin.write(array.tobytes())
        self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """What it answers within so many seconds. `problem` says why there is nothing else; it is the process's own word,
        unless `lost` says that there was none."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return {"problem": f"process {self._rank} was not done {seconds:g} s after the first", "lost": "late"}

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self, answers: IO[bytes]) -> None:
        for line in answers:
            answer = json.loads(line)
            self._answers.put(answer)
            if "problem" in answer:
                self.failed.set()
        status = self._process.wait()
        self._answers.put({"problem": f"process {self._rank} ended with status {status}", "lost": "ended"})
        self.failed.set()


def serve() -> None:
    """The life of a process that is not the first: it joins the others, and does what it is asked until nobody asks."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: queue.Queue[_Asked] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, asked), daemon=True).start()

    def answer(**words: Any) -> None:
        answers.write(json.dumps(words).encode() + b"\n")
        answers.flush()

    scorer: TargetScorer
    while True:
        head, arrays = asked.get()
        try:
            if head["what"] == "join":
                prepare(head["opening"]["rank"])
                answer(ready=True)  # whoever fails before the meeting lets nobody wait there
                scorer = join(**head["opening"])
                answer(way=scorer.way)
            else:
                answer(totals=_do(scorer, head["what"], arrays))
        except Exception as error:  # noqa: BLE001 - the first process raises it
            answer(problem=f"{type(error).__name__}: {first_line(error)}")
            return


def _do(scorer: TargetScorer, what: str, arrays: list[np.ndarray]) -> list[float]:
    if what == "works":
        return [float(scorer.works())]
    prompts, targets, finished = _unpacked(arrays)
    if what == "sums":
        return totals_of([scorer.sums(prompts, targets, finished=finished)])
    return totals_of(scorer.logprobs(prompts, targets))


def prepare(rank: int) -> None:
    """Take the device of this process."""
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)


def join(
    rank: int,
    *,
    shards: int,
    meeting: str,
    model: dict[str, Any],
    batch_tokens: int | None,
    longest: int | None,
    threads: int,
) -> TargetScorer:
    """Meet the other processes, load the slice of this one, and make the scorer over it."""
    gpus = torch.cuda.is_available()
    if not gpus:
        torch.set_num_threads(max(1, threads // shards))
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=shards,
        timeout=timedelta(seconds=LOADING),
    )
    device = f"cuda:{rank}" if gpus else device_of(gpu=False)
    with _local_rank(rank):
        loaded = load_model(**model, device=device, shards=shards)
    return TargetScorer(loaded, batch_tokens or _fewest_tokens(loaded, device), longest=longest)


@contextmanager
def _local_rank(rank: int) -> Iterator[None]:
    """What transformers finds the device by. Other libraries would take it for a launcher's."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(rank)
    try:
        yield
    finally:
        del os.environ["LOCAL_RANK"]
        if before is not None:
            os.environ["LOCAL_RANK"] = before


def leave() -> None:
    """Leave the other processes, which may be gone."""
    if dist.is_initialized() and not stop_waiting():
        dist.destroy_process_group()


def stop_waiting() -> bool:
    """End what GPUs wait for. On a CPU, where this does nothing, waits end by themselves with the processes waited for."""
    on_gpus = dist.is_initialized() and dist.get_backend() == "nccl"
    if on_gpus:
        dist.distributed_c10d._abort_process_group()
    return on_gpus


def _fewest_tokens(model: Any, device: str) -> int:
    """Tokens of a batch that the memory of every device is enough for."""
    tokens = torch.tensor([batch_tokens(model)], device=device)
    dist.all_reduce(tokens, dist.ReduceOp.MIN)
    return int(tokens.item())


def packed(prompts: Sequence[Ids], targets: Sequence[Ids], finished: np.ndarray | None) -> list[np.ndarray]:
    """Lengths int64 [2N] and ids int64 [all tokens] of N prompts and N targets, and what is finished of them float64 [N]."""
    parts = [np.asarray(ids, dtype=np.int64) for ids in (*prompts, *targets)]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    known = np.full(len(prompts), np.nan) if finished is None else finished
    return [lengths, np.concatenate(parts) if parts else np.zeros(0, np.int64), known]


def _unpacked(arrays: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    lengths, ids, finished = arrays
    parts = np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return parts[: len(finished)], parts[len(finished) :], finished


def totals_of(results: Sequence[np.ndarray]) -> list[float]:
    """What processes compare: how many numbers are finite, their sum, and the sum of each times its place."""
    numbers = np.concatenate([np.zeros(0), *results]).astype(np.float64)
    finite = np.isfinite(numbers)
    kept = np.where(finite, numbers, 0.0)
    return [float(finite.sum()), float(kept.sum()), float((kept * np.arange(1, len(kept) + 1)).sum())]


def _read(asked: IO[bytes], to: queue.Queue[_Asked]) -> None:
    """Hand on all that is asked, and end the process where the asking one has ended: what it waits for will not come."""
    meeting = None
    try:
        while line := asked.readline():
            head = json.loads(line)
            meeting = head.get("opening", {}).get("meeting", meeting)
            arrays = []
            for dtype, length in head["arrays"]:
                data = asked.read(length * np.dtype(dtype).itemsize)
                arrays.append(np.frombuffer(data, dtype=dtype).copy())
            to.put((head, arrays))
    finally:
        if meeting is not None:
            shutil.rmtree(Path(meeting).parent, ignore_errors=True)
        os._exit(0)
