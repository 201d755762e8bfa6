"""What `tss plan` says, beside what the run that follows takes.

    python tests/benchmarks/plan.py CONFIG.yaml ... [--sample ROWS] [--set KEY=VALUE] [--published]

For each configuration: the figures of the plan, those of the run's manifest, and their ratio. With `--sample` the corpus is
taken for one that is too large to be read whole, and so many rows of it are drawn. With `--published` nothing is run: the plan,
which then knows no store, is compared with the newest run of the output.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline import flow, plan, read_config
from pipeline.config import Config
from pipeline.engine.progress import Reporter
from pipeline.planning import sample
from pipeline.planning.record import Plan
from pipeline.planning.stored import StoredPairs
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest


@dataclass(frozen=True)
class Beside:
    """A figure of a plan, and the same of a run."""

    name: str
    planned: float
    taken: float

    def line(self) -> str:
        ratio = self.planned / self.taken if self.taken else float("nan")
        return f"  {self.name:<22} {self.planned:>14,.0f} {self.taken:>14,.0f} {ratio:>8.3f}"


def figures(made: Plan, manifest: Manifest) -> list[Beside]:
    """All that both say."""
    counts = manifest.counts
    scoring = sum(seconds for name, seconds in manifest.timings.items() if name.startswith("score"))
    return [
        Beside("rows read", made.rows.corpus, counts.read),
        Beside("rows rejected", made.rows.rejected_share * made.rows.corpus, counts.lost),
        Beside("duplicates", made.rows.duplicates, counts.duplicates),
        Beside("distinct instructions", made.instructions.distinct, manifest.instructions),
        Beside("pairs.computed", made.pairs.left, manifest.pairs.computed),
        Beside("pairs.stored", made.pairs.stored, manifest.pairs.stored),
        Beside("tokens.in_pairs", made.forward.in_pairs, manifest.tokens.in_pairs),
        Beside("tokens.forwarded", made.forward.on_cpu, manifest.tokens.forwarded),
        Beside("bytes of scored", made.space.disk["scored"], sum(part.bytes for part in manifest.files["scored"])),
        Beside("seconds of scoring", made.cpu.hours * 3600, scoring),
    ]


def planned(config: Config, rows: int | None, published: bool) -> Plan:
    """The plan of a configuration, from a sample where `rows` says of how many."""
    if rows is not None:
        plan.take_sample = partial(sample.take_sample, rows=rows, whole_bytes=0)
    if published:
        plan.stored_pairs = lambda *asked: StoredPairs()
    return plan.plan(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, help="rows that are drawn of each corpus")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--published", action="store_true", help="compare with the newest run of the output")
    chosen = parser.parse_args()
    for path in chosen.configs:
        config = read_config.load(path, chosen.overrides)
        began = time.monotonic()
        made = planned(config, chosen.sample, chosen.published)
        seconds = time.monotonic() - began
        run = open_run.latest_run(config.output) if chosen.published else flow.run(config, Reporter()).run
        if run is None:
            raise SystemExit(f"{config.output}: there is no published run")
        how = "all rows" if made.rows.exact else f"{made.rows.sampled:,} rows"
        print(f"{path.name}: planned from {how} in {seconds:.1f} s\n  {'':<22} {'plan':>14} {'run':>14} {'ratio':>8}")
        print("\n".join(figure.line() for figure in figures(made, open_run.read_manifest(run))), flush=True)


if __name__ == "__main__":
    main()
