"""A process that holds one slice of a sharded scorer, and how the first process speaks with it.

It is asked through its standard input, which ends when the first process does, and answers with the total of what it got, in
lines of JSON.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist

from operators.error_text import first_line
from operators.scoring.batch_budget import batch_tokens
from operators.scoring.batching import Ids
from operators.scoring.models import device_of, load_model
from operators.scoring.scorer import TargetScorer

LOADING = 1800.0  # seconds until all have loaded their slices, and for one sum over all
_CHILD = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); from operators.scoring import shard_process; "
    "shard_process.serve()"
)


class Shard:
    """Another process of a sharded scorer, as the first sees it."""

    def __init__(self, opening: dict[str, Any]):
        paths = [str(Path(__file__).resolve().parents[2]), *sys.path]  # the modules that this process has
        rank = opening["rank"]
        self.rank = rank
        self.process = subprocess.Popen(
            # A working folder is no place of modules: it may hold a json.py.
            [sys.executable, "-P", "-c", _CHILD, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LOCAL_RANK": str(rank)},  # by which transformers finds its device
        )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=_lines, args=(self.process.stdout, self._answers), daemon=True).start()
        self.ask(json.dumps(opening), [])

    def ask(self, what: str, arrays: list[np.ndarray]) -> None:
        """Raises OSError where the process is gone."""
        assert self.process.stdin  # noqa: S101 - it is a pipe
        head = {"what": what, "arrays": [[array.dtype.str, len(array)] for array in arrays]}
        self.process.stdin.write(json.dumps(head).encode() + b"\n")
        for array in arrays:
            self.process.stdin.write(array.tobytes())
        self.process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """What it says within so many seconds; where it says nothing, a problem that is marked as `lost`."""
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            return {"problem": f"process {self.rank} was not done {seconds:g} s after the first", "lost": True}
        if not line:
            return {"problem": f"process {self.rank} ended with status {self.process.wait()}", "lost": True}
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve() -> None:
    """The life of a process that is not the first: it joins the others, and does what it is asked until nobody asks."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    asked: queue.Queue[tuple[str, list[np.ndarray]]] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, asked), daemon=True).start()

    def answer(**words: Any) -> None:
        answers.write(json.dumps(words).encode() + b"\n")
        answers.flush()

    opening = json.loads(asked.get()[0])
    try:
        scorer = join(**opening)
    except Exception as error:  # noqa: BLE001 - the first process raises it
        answer(problem=f"{type(error).__name__}: {first_line(error)}")
        return
    answer(way=scorer.way)
    while True:
        what, arrays = asked.get()
        try:
            answer(total=_do(scorer, what, arrays))
        except Exception as error:  # noqa: BLE001 - the first process raises it
            answer(problem=f"{type(error).__name__}: {first_line(error)}")


def _do(scorer: TargetScorer, what: str, arrays: list[np.ndarray]) -> float:
    if what == "works":
        return float(scorer.works())
    prompts, targets, finished = _unpacked(arrays)
    if what == "sums":
        return total_of(scorer.sums(prompts, targets, finished=finished))
    return total_of_all(scorer.logprobs(prompts, targets))


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
    if gpus:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, threads // shards))
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=shards,
        timeout=timedelta(seconds=LOADING),
    )
    device = f"cuda:{rank}" if gpus else device_of(gpu=False)
    loaded = load_model(**model, device=device, shards=shards)
    return TargetScorer(loaded, batch_tokens or _fewest_tokens(loaded, device), longest=longest)


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


def total_of(sums: np.ndarray) -> float:
    return float(np.sum(sums))


def total_of_all(logprobs: list[np.ndarray]) -> float:
    return float(sum(terms.sum(dtype=np.float64) for terms in logprobs))


def _read(asked: IO[bytes], to: queue.Queue[tuple[str, list[np.ndarray]]]) -> None:
    """Hand on all that is asked, and end the process where the asking one has ended: what it waits for will not come."""
    while line := asked.readline():
        head = json.loads(line)
        arrays = []
        for dtype, length in head["arrays"]:
            data = asked.read(length * np.dtype(dtype).itemsize)
            arrays.append(np.frombuffer(data, dtype=dtype).copy())
        to.put((head["what"], arrays))
    os._exit(0)


def _lines(answers: IO[bytes], to: queue.Queue[bytes]) -> None:
    """Hand on all lines; an empty one is the end."""
    for line in answers:
        to.put(line)
    to.put(b"")
