"""Random SIGKILLs to runs of one corpus, until each is published, compared with a run that nobody killed.

    PYTHONPATH=tests:. python tests/benchmarks/kill.py --kills 50 --output kills

Each output is killed a few times, at random moments from the start of the process to its end: an actor that scores, any
worker, the driver, all of Ray, or all of Ray on a machine that is switched off in the middle of writing. A run whose actor or
worker was killed goes on by itself; the others are started again with the same command. Afterwards every row, rank, count and
pair must be that of the uninterrupted run, to the last bit, and no pair may have been stored twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections import Counter
from pathlib import Path

from killed_runs import KINDS, Started, differences, published, stored_pairs, switch_off

from pipeline import demo
from pipeline.demo import corpus

KILLS_OF_ONE_OUTPUT = 5


def configuration(folder: Path, rows: int) -> dict:
    """The demo's corpus and scorer, with parts of the store every half second."""
    settings = demo.settings(folder / "rows.jsonl", folder / "whole")
    corpus.write(folder / "rows.jsonl", rows, 0)
    return {**settings, "store": {"write_every": 0.5}}


def finish(config: Path) -> float:
    """Run to the end; seconds."""
    began = time.monotonic()
    status = Started(config, "--quiet").end()
    if status:
        raise SystemExit(f"a run nobody killed ended with {status}: see {config.with_suffix('.log')}")
    return time.monotonic() - began


def attack(
    config: Path, output: Path, seconds: float, kinds: list[str], rng: random.Random
) -> tuple[Counter[str], int]:
    """Kill runs of one output in these ways, then let it end: kills that hit by kind, and attempts."""
    hit: Counter[str] = Counter()
    attempts = 1
    started = Started(config, "--quiet")
    for kind in kinds:
        if kind == "actor":  # there is one only while rows are scored
            started.wait_for(started.actors)
        until = time.monotonic() + rng.uniform(0.5, seconds / (4 if kind == "actor" else 1.2))
        started.wait_for(lambda until=until: time.monotonic() >= until)
        if started.process.poll() is None and started.kill(kind, rng, grace=5):
            hit[kind] += 1
            if not started.ended:
                raise SystemExit("a driver did not end, though all of its Ray was gone")
        if started.process.poll() is not None:
            started.end()
            if (output / "latest.json").exists():
                return hit, attempts  # it was faster, or killed when all was done
            if kind == "power":
                switch_off(output)
            started, attempts = Started(config, "--quiet"), attempts + 1
    # Killing a worker of Ray's own may end its node, and the driver with it: that, too, is an interruption.
    while started.end():
        started, attempts = Started(config, "--quiet"), attempts + 1
        if attempts > 3 * KILLS_OF_ONE_OUTPUT:
            raise SystemExit(f"no attempt came to its end after {dict(hit)}: see {config.with_suffix('.log')}")
    return hit, attempts


def main() -> None:
    """Kill and compare; exits with 1 at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    settings = configuration(options.output, options.rows)
    config = options.output / "config.yaml"
    config.write_text(json.dumps(settings))
    seconds = finish(config)
    whole = published(options.output / "whole")
    pairs = stored_pairs(options.output / "whole")
    print(f"uninterrupted: {seconds:.0f} s, {pairs[1]:,} stored pairs", flush=True)

    total: Counter[str] = Counter()
    for number in itertools.count():
        if sum(total.values()) >= options.kills:
            break
        output = options.output / f"out-{number:03d}"
        config.write_text(json.dumps({**settings, "output": str(output)}))
        kinds = [rng.choice(KINDS) for _ in range(KILLS_OF_ONE_OUTPUT)]
        hit, attempts = attack(config, output, seconds, kinds, rng)
        total += hit
        found = differences(published(output), whole)
        rows, distinct = stored_pairs(output)
        if distinct != pairs[1]:
            found.append(f"{distinct:,} distinct pairs stored, {pairs[1]:,} by the uninterrupted run")
        again = rows - pairs[0]  # two blocks that ask for an equal pair store it twice, also without a kill
        if again:
            found.append(f"{again:,} pairs computed again that were stored")
        known = json.loads((published(output) / "manifest.json").read_text())["pairs"]
        print(
            f"{output.name}: {dict(hit)} in {attempts} attempts; {known['resumed']:,} of {known['computed']:,} pairs computed "
            f"before the last one; {'; '.join(found) or 'equal'}",
            flush=True,
        )
        if found:
            raise SystemExit(1)
    print(f"{sum(total.values())} kills: {dict(total)}; every output equals the uninterrupted run")


if __name__ == "__main__":
    main()
