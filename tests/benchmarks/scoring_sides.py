"""One side of the scoring benchmark in a process of its own: load the model, warm up, score, and say what it took.

    PYTHON tests/benchmarks/scoring_sides.py JOB.json     # started by scoring.py with the Python that has the side

Only scoring is timed: the model is loaded and a small call is done before. The machine's matrix-product rate is measured
in the same process right before, in the side's dtype and with its threads.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = dict[str, list[list[int]]]  # prompts and targets of one call
Pair = tuple[list[int], list[int]]
Score = Callable[[list[Call]], list[float]]

WARM_UP_PAIRS, WARM_UP_TOKENS = 8, 128
SEARCH_TIMES = 2  # that each batch size of lm-eval is tried
VLLM_LENGTH = 2048  # tokens of a sequence that vLLM makes room for
LOGIT_COPIES = 3  # that lm-eval holds at once: the last batch's log-softmax, this one's logits and their log-softmax


def matmul_rate(dtype: torch.dtype, size: int = 2048, times: int = 20) -> float:
    """FLOP/s of a square matrix product: the median of `times`."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    left @ right
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)


def memory(field: str) -> float:
    """MiB of this process by /proc: `VmRSS:` now, `VmHWM:` at most. Unlike getrusage's figure, VmHWM does not begin with
    the memory of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Let VmHWM begin anew at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def load(job: dict[str, Any], dtype: str = "float32") -> Any:
    from operators.scoring.models import load_model

    return load_model(job["model"], dtype=dtype, device="cpu")


def parameters(model: Any) -> dict[str, int]:
    """How many parameters work on every token, and how many only where logits are wanted; looking up a token is no work. And
    the width of all attention heads of all layers together."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    outside = {id(weight): weight.numel() for weight in (embeddings, head)}
    return {
        "body_parameters": sum(weight.numel() for weight in model.parameters() if id(weight) not in outside),
        "head_parameters": head.numel(),
        "attention_width": config.num_hidden_layers * config.num_attention_heads * width,
    }


def read_calls(sample: dict[str, Any], vocabulary: int) -> list[Call]:
    """The sample's calls with ids spread over a larger vocabulary, so that the whole output head is in use."""
    stride = max(1, vocabulary // sample["vocabulary"])
    return [
        {name: [[i * stride % vocabulary for i in ids] for ids in lists] for name, lists in call.items()}
        for call in sample["calls"]
    ]


def flat(calls: list[Call]) -> list[Pair]:
    return [pair for call in calls for pair in zip(call["prompts"], call["targets"], strict=True)]


def warm_up_calls(calls: list[Call]) -> list[Call]:
    pairs = sorted(flat(calls[:1]), key=lambda pair: abs(len(pair[0]) + len(pair[1]) - WARM_UP_TOKENS))
    prompts, targets = zip(*pairs[:WARM_UP_PAIRS], strict=True)
    return [{"prompts": list(prompts), "targets": list(targets)}]


def ours(model: Any, job: dict[str, Any], facts: dict[str, Any]) -> Score:
    """The project's scorer as the pipeline calls it: block by block, with the pipeline's batch size."""
    from operators.scoring.batch_budget import FAST
    from operators.scoring.scorer import TargetScorer

    scorer = TargetScorer(model, FAST["cpu"])

    def score(calls: list[Call]) -> list[float]:
        before = scorer.forwarded_tokens
        sums = [value for call in calls for value in scorer.sums(call["prompts"], call["targets"]).tolist()]
        facts["forwarded_tokens"] = scorer.forwarded_tokens - before
        return sums

    return score


def lm_eval(model: Any, job: dict[str, Any], facts: dict[str, Any]) -> Score:
    """lm-evaluation-harness at the token level, given the same ids; all calls at once, which gives it more to sort.

    It sorts by length, pads on the right without a mask, and takes a log-softmax of all positions over the vocabulary. Ids
    before the window would be cut with no more than a warning, so longer sequences are refused here.
    """
    score = _harness(model, job, job["batch"])

    def checked(calls: list[Call]) -> list[float]:
        if max(len(prompt) + len(target) for prompt, target in flat(calls)) > model.config.max_position_embeddings:
            raise RuntimeError("a sequence is longer than the model's window: lm-eval would cut it")
        return score(calls)

    return checked


def _harness(model: Any, job: dict[str, Any], batch: int) -> Score:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)

    def score(calls: list[Call]) -> list[float]:
        requests = [(("", ""), prompt, target) for prompt, target in flat(calls)]
        return [total for total, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)]

    return score


def search_batch(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of lm-eval on part of the sample for each batch size, the least of those that it took in turn; None where its
    logits would not fit into memory.

    The part is every n-th run of sequences in lm-eval's own order, a run as long as the largest batch. So its batches are
    ones of the whole sample, with as much padding.
    """
    model = load(job)
    vocabulary = model.config.vocab_size
    calls = read_calls(json.loads(Path(job["sample"]).read_text()), vocabulary)
    pairs = sorted(flat(calls), key=lambda pair: (-len(pair[0]) - len(pair[1]), pair[0] + pair[1]))
    size = max(job["batches"])
    runs = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    tokens = sum(len(prompt) + len(target) for prompt, target in pairs)
    step = max(1, min(len(runs), tokens // job["search_tokens"]))
    part = [pair for run in runs[step // 2 :: step] for pair in run]
    chosen = [{"prompts": [prompt for prompt, _ in part], "targets": [target for _, target in part]}]
    longest = len(pairs[0][0]) + len(pairs[0][1])
    seconds: dict[int, float | None] = dict.fromkeys(job["batches"])
    for batch in job["batches"] * SEARCH_TIMES:
        if LOGIT_COPIES * 4 * batch * longest * vocabulary > 0.8 * _available():
            continue
        score = _harness(model, job, batch)
        score(warm_up_calls(calls))
        began = time.perf_counter()
        score(chosen)
        spent = time.perf_counter() - began
        seconds[batch] = min(spent, seconds[batch] or spent)
    return {"seconds": seconds, "pairs": len(part)}


def _available() -> int:
    """Bytes of memory that the machine can still give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def per_row(model: Any, job: dict[str, Any], facts: dict[str, Any]) -> Score:
    """A plain loop over transformers: one sequence a call, full logits, log-softmax, gather."""

    @torch.inference_mode()
    def one(prompt: list[int], target: list[int]) -> float:
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0, :-1]
        chosen = logits.float().log_softmax(dim=-1).gather(1, torch.tensor(prompt[1:] + target)[:, None])
        return chosen[len(prompt) - 1 :].double().sum().item()

    return lambda calls: [one(prompt, target) for prompt, target in flat(calls)]


def data_juicer(job: dict[str, Any], texts: list[dict[str, str]]) -> Callable[[list[dict[str, str]]], int]:
    """Data-Juicer's IFD operator on the same rows' text: two sequences a row, with and without the prompt.

    It tokenizes by itself and joins prompt and output with a space, so its likelihoods cannot be compared; how many
    sequences it gets through can. The call returns their number.
    """
    from data_juicer.ops.filter.instruction_following_difficulty_filter import InstructionFollowingDifficultyFilter
    from data_juicer.utils.constant import Fields

    operator = InstructionFollowingDifficultyFilter(
        hf_model=job["model"], query_template="{prompt}", response_template="{output}"
    )

    def score(rows: list[dict[str, str]]) -> int:
        for row in rows:
            operator.compute_stats_single({**row, Fields.stats: {}})
        return 2 * len(rows)

    score(texts[:1])  # loads the model
    return score


def vllm(model: Any, job: dict[str, Any], facts: dict[str, Any]) -> Score:
    """vLLM in this process: the log-probabilities of all tokens of prompt and target, since it cannot be asked for those of
    targets alone, and one token more, which it always writes. `enforce_eager`: nothing is compiled. Its memory holds
    VLLM_CPU_KVCACHE_SPACE GiB of cache."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{job['threads'] - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

    engine = LLM(model=job["model"], dtype=job["dtype"], max_model_len=VLLM_LENGTH, enforce_eager=True)
    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)

    def score(calls: list[Call]) -> list[float]:
        pairs = flat(calls)
        answers = engine.generate([{"prompt_token_ids": [*p, *t]} for p, t in pairs], asked, use_tqdm=False)
        return [
            sum(answer.prompt_logprobs[place][id].logprob for place, id in enumerate(target, start=len(prompt)))
            for answer, (prompt, target) in zip(answers, pairs, strict=True)
        ]

    return score


SIDES = {"ours": ours, "ours-bf16": ours, "lm-eval": lm_eval, "vllm": vllm, "vllm-bf16": vllm, "per-row": per_row}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Sums of all pairs in the sample's order, seconds, memory in MiB, and the machine's rate in FLOP/s."""
    dtype = "bfloat16" if job["side"].endswith("bf16") else "float32"
    job = {**job, "dtype": dtype}
    sample = json.loads(Path(job["sample"]).read_text())
    facts: dict[str, Any] = {"matmul_flops": matmul_rate(getattr(torch, dtype))}
    if job["side"] == "data-juicer":
        score, work, small = data_juicer(job, sample["texts"]), sample["texts"], sample["texts"][:2]
    else:
        model = load(job, dtype)
        work = read_calls(sample, model.config.vocab_size)
        facts |= parameters(model)
        if SIDES[job["side"]] is vllm:
            model = None  # it loads its own
        score, small = SIDES[job["side"]](model, job, facts), warm_up_calls(work)
    loaded, before = memory("VmRSS:"), memory("VmHWM:")
    score(small)
    forget_peak()
    began = time.perf_counter()
    result = score(work)
    facts["seconds"] = time.perf_counter() - began
    peak = memory("VmHWM:")
    facts |= {"peak_MiB": max(before, peak), "rise_MiB": peak - loaded}
    return {**facts, "pairs": result} if job["side"] == "data-juicer" else {**facts, "sums": result}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    result = search_batch(job) if job["side"] == "search" else measure(job)
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
