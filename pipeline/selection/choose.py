"""Stage 6, the driver's side: the longest prefix of the ranking that fits the budget, written best first.

The driver holds histograms of fixed size and records of parts, never rows: see `operators/selection/budget.py` for the search.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from operators.selection import budget
from pipeline.config import Config
from pipeline.engine.job import Job, by_block, execute, mapped, over_parts
from pipeline.errors import BadRequest
from pipeline.selection import passes as passes
from pipeline.selection.search import Search, find_ends, slim, sweep
from pipeline.storage.parts import Record

ORDER_SAMPLE = 50  # orders kept of each part, from which the boundaries of the output files are drawn


@dataclass(frozen=True)
class Selection:
    """What was selected: parts best first, rows by source, and the budget asked and used in its unit."""

    parts: list[Record]
    sources: dict[str, int]
    unit: str
    asked: int
    total: int
    used: int
    eligible: int  # rows that have a score and pass filters and caps
    ranking: passes.Ranking  # without caps and quotas


@dataclass(frozen=True)
class Reach:
    """Where the budget ends when rows without a tss_pp stand at their bound, and where a larger one would."""

    without_score: int  # rows up to and with the one that ends the budget that have no tss_pp
    threshold: float  # the score of the row that ends the larger budget, or a little below; -inf where all rows fit
    open: dict[int, int]  # by block: rows without a tss_pp whose bound reaches the threshold


def totals(job: Job, scored: list[Record]) -> tuple[int, int]:
    """Cost of all rows in the unit of the budget, and how many they are."""
    records = sweep("threshold", slim(scored), passes.totals_of_part, score=[], cost=_cost(job.config))
    return sum(record["total"] for record in records), sum(record["rows"] for record in records)


def reach(job: Job, scored: list[Record], asked: int, larger: int) -> Reach:
    """How far scores and bounds reach when the budget is `asked`, and where one of `larger` would end, in units of cost."""
    parts = slim(scored)
    ranking = passes.Ranking("tss_pp", {}, _cost(job.config), job.config.select.where, [], [], by_bound=True)
    cuts = {name: budget.Cut((), room) for name, room in (("asked", asked), ("larger", larger))}
    with job.reporter.stage("threshold", None, "passes") as stage:
        (search,) = find_ends("threshold", parts, [Search(ranking, cuts)], stage.advance)
        threshold = budget.lowest_score(search.cuts["larger"].prefix)
        found = sweep("threshold", parts, passes.reach_of_part, **search.ends(), threshold=threshold)
        result = Reach(
            sum(record["without_score"] for record in found),
            threshold,
            {record["block"]: record["open"] for record in found},
        )
        stage.advance(note=f"{threshold:.4g}, {result.without_score:,} rows above the budget's end without a score")
    return result


def require_scores(job: Job, scored: list[Record], bounded: int) -> None:
    """Raise BadRequest where some of the `bounded` rows of a run could be selected if they had a tss_pp."""
    if not bounded or not job.config.select.on_alternatives():
        return
    asked = budget.largest_budget(totals(job, scored)[0], job.config.select.budget)
    if count := reach(job, scored, asked, asked).without_score:
        wanted = job.config.select
        found = [f"budget: {wanted.budget}", *([f"where: {wanted.where}"] if wanted.where else [])]
        raise BadRequest(
            f"select: found {' and '.join(found)}, within which {count:,} rows without a tss_pp could be selected: this run "
            f"was scored with mode: bounded for a smaller selection. {SCORE_ANEW}"
        )


SCORE_ANEW = "Accepted: select less, or score all rows: `tss run` with select.mode: full"


def _cost(config: Config) -> str:
    """What a row costs under the budget: one, its output tokens, or all of its tokens."""
    ((unit, _),) = config.select.budget.items()
    return "rows" if unit.startswith("example") else config.select.cost


def select(job: Job, scored: list[Record]) -> Selection:
    """Select the longest prefix of the ranking under the budget."""
    wanted = job.config.select
    cost = _cost(job.config)
    names = [] if isinstance(wanted.score, str) else list(wanted.score)
    parts = slim(scored)
    with job.reporter.stage("select", None, "passes") as stage:
        found = sweep("select", parts, passes.totals_of_part, score=names, cost=cost)
        stage.advance()
        total = sum(record["total"] for record in found)
        asked = budget.largest_budget(total, wanted.budget)
        cuts = _budgets(asked, wanted.quota)
        quota = list(cuts) if wanted.quota else []
        ranking = passes.Ranking(wanted.score, _moments(found, names), cost, wanted.where, [], quota)
        for column, n in wanted.max_per.items():
            ranking = replace(ranking, caps=[*ranking.caps, (column, _cap(job, parts, ranking, column, n))])
            stage.advance()
        (search,) = find_ends("select", parts, [Search(ranking, cuts)], stage.advance)
        chosen = sweep("select", parts, passes.choose_of_part, **search.ends(), work=job.work, sample=ORDER_SAMPLE)
        stage.advance()
        rows = sum(cut.rows for cut in search.cuts.values())
        written = _write_ranked(job, chosen, rows)
        stage.advance(note=f"{rows:,} rows")
    sources: dict[str, int] = {}
    for record in chosen:
        for source, number in record["sources"].items():
            sources[source] = sources.get(source, 0) + number
    return Selection(
        written,
        sources,
        "examples" if cost == "rows" else "tokens",
        asked,
        total,
        sum(cut.used for cut in search.cuts.values()),
        search.eligible,
        replace(ranking, caps=[], quota=[]),
    )


def _moments(records: list[Record], names: list[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each column. Rounded to 9 digits, so that the order in which parts were summed, which
    moves the last bits of a float, cannot move a selection."""
    count = sum(record["count"] for record in records)
    result = {}
    for place, name in enumerate(names):
        mean = sum(record["sums"][place] for record in records) / max(1, count)
        variance = sum(record["squares"][place] for record in records) / max(1, count) - mean**2
        result[name] = (float(f"{mean:.9g}"), float(f"{max(0.0, variance) ** 0.5:.9g}"))
    return result


def _budgets(asked: int, quota: dict[str, float]) -> dict[str, budget.Cut]:
    """A search for each budget: one, or one for each source of the quota and one for what the quota leaves to the others."""
    shares = dict(quota)
    left = 1 - sum(shares.values())
    if left > 1e-9:
        shares[passes.WHOLE] = left
    return {name: budget.Cut((), int(asked * share + 1e-9)) for name, share in shares.items()}


def _cap(job: Job, parts: list[Record], ranking: passes.Ranking, column: str, n: int) -> list[str]:
    best = over_parts(parts, passes.caps_of_part, ranking=asdict(ranking), column=column, n=n)
    cuts = mapped(
        best.repartition(max(1, len(parts) // 16), keys=["group"]),
        passes.cuts_of_groups,
        fn_kwargs={"work": job.work, "n": n},
    )
    return [record["path"] for record in execute("select", cuts)]


def _write_ranked(job: Job, chosen: list[Record], rows: int) -> list[Record]:
    files = -(-rows // passes.ROWS_PER_FILE)
    if not files:
        return []
    sample = sorted(order for record in chosen for order in record["orders"])
    boundaries = [sample[len(sample) * i // files] for i in range(1, files)]
    paths = [{"path": record["path"]} for record in chosen]
    counts = execute("select", over_parts(paths, passes.count_files, boundaries=boundaries))
    in_file = [sum(record["rows"][file] for record in counts) for file in range(files)]
    offsets = [sum(in_file[:file]) for file in range(files)]
    dataset = over_parts(paths, passes.file_of_rows, boundaries=boundaries)
    dataset = dataset.sort("file", boundaries=list(range(1, files))) if files > 1 else dataset.repartition(1)
    records = execute("select", mapped(dataset, passes.write_ranked, fn_kwargs={"offsets": offsets, "work": job.work}))
    return by_block("select", records)
