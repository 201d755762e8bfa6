"""Stage 6: the longest prefix of the ranking that fits the budget, written best first.

The driver holds histograms of fixed size and records of tasks, never rows: see `operators/selection/budget.py` for the search.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import asdict, dataclass, replace

from operators.selection import budget, ranking_key
from pipeline.config import Config
from pipeline.config_select import Select
from pipeline.engine.job import Job, by_block, execute, mapped, over_parts, shuffles_of
from pipeline.engine.light_pass import is_small, light_pass
from pipeline.errors import BadRequest
from pipeline.selection import passes
from pipeline.selection.conversations import over_conversations
from pipeline.selection.passes import Chosen, FileRows, Reached, Totals
from pipeline.selection.rank_values import without_ranks
from pipeline.selection.ranking import WHOLE, Moments, Ranking, group_label
from pipeline.selection.search import Search, find_ends
from pipeline.storage import urls
from pipeline.storage.records import BlockPart, Part

SAMPLED_PER_FILE = 200  # rows for each output file, from which the boundaries of these are drawn
SCORE_ANEW = "Accepted: select less, or score all rows: `tss run` with select.mode: full"


@dataclass(frozen=True)
class Selection:
    """What was selected: parts best first, rows by source, and the budget asked and used in its unit."""

    parts: list[BlockPart]
    sources: dict[str, int]
    unit: str
    asked: int
    total: int
    used: int
    eligible: int  # rows that have a score and pass filters and caps
    ranking: Ranking  # of rows, without caps and quotas


@dataclass(frozen=True)
class Reach:
    """Where the budget ends when rows without a tss_pp stand at their bound, and where a larger one would."""

    without_score: int  # rows up to and with the one that ends the budget that have no tss_pp
    threshold: float  # the key of the row that ends the larger budget, or a little below; -inf where all rows fit
    open: dict[int, int]  # by block: rows without a tss_pp whose bound reaches the threshold


def totals(job: Job, scored: list[BlockPart]) -> tuple[int, int]:
    """Cost of all rows in the unit of the budget, and how many they are."""
    records = list(light_pass("threshold", Totals, scored, passes.totals_of_parts, cost=_cost(job.config)))
    return sum(record.total for record in records), sum(record.rows for record in records)


def reach(job: Job, scored: list[BlockPart], asked: int, larger: int) -> Reach:
    """How far scores and bounds reach when the budget is `asked`, and where one of `larger` would end, in units of cost."""
    select = job.config.select
    ranking = Ranking("tss_pp", {}, _cost(job.config), select.where, temperature=select.drawn_at, by_bound=True)
    cuts = {name: budget.Cut((), room) for name, room in (("asked", asked), ("larger", larger))}
    with job.reporter.stage("threshold", None, "passes") as stage:
        (search,) = find_ends("threshold", scored, [Search(ranking, cuts)], stage.advance)
        threshold = ranking_key.lowest_score(search.cuts["larger"].prefix)
        ends = {**search.ends(), "threshold": threshold}
        records = list(light_pass("threshold", Reached, scored, passes.reach_of_parts, **ends))
        above = {block: rows for record in records for block, rows in record.open.items()}
        result = Reach(sum(record.without_score for record in records), threshold, above)
        stage.advance(note=f"{threshold:.4g}, {result.without_score:,} rows above the budget's end without a score")
    return result


def require_scores(job: Job, scored: list[BlockPart], bounded: int) -> None:
    """Raise BadRequest where some of the `bounded` rows of a run could be selected if they had a tss_pp."""
    if not bounded or not job.config.select.on_alternatives():
        return
    asked = budget.largest_budget(totals(job, scored)[0], job.config.select.budget)
    if count := reach(job, scored, asked, asked).without_score:
        wanted = job.config.select
        settings = [f"budget: {wanted.budget}", *([f"where: {wanted.where}"] if wanted.where else [])]
        raise BadRequest(
            f"select: found {' and '.join(settings)}, within which {count:,} rows without a tss_pp could be selected: this run "
            f"was scored with mode: bounded for a smaller selection. {SCORE_ANEW}"
        )


def _cost(config: Config) -> str:
    return cost_under(config.select)


def cost_under(select: Select) -> str:
    """What a row costs under the budget: one (`rows`), its output tokens, or all of its tokens."""
    ((unit, _),) = select.budget.items()
    return "rows" if unit.startswith("example") else select.cost


def select(job: Job, scored: list[BlockPart], moments: Moments) -> Selection:
    """Select the longest prefix of the ranking under the budget; `moments` of the columns of a weighted score."""
    wanted, cost = job.config.select, _cost(job.config)
    with job.reporter.stage("select", None, "passes") as stage:
        total, _ = totals(job, scored)
        stage.advance()
        asked = budget.largest_budget(total, wanted.budget)
        ((column, shares),) = wanted.quota.items() or [(None, {})]
        cuts = budgets_of(asked, shares)
        where = without_ranks(scored, wanted.where)
        plain = Ranking(wanted.score, moments, cost, where, temperature=wanted.drawn_at)
        ranking = replace(plain, quota=column, shares=list(cuts) if column else [])
        if wanted.unit == "conversation":
            (ranking,) = over_conversations(job, "select", scored, [ranking], [*wanted.max_per, *wanted.quota])
            stage.advance()
        for column, n in wanted.max_per.items():
            ranking = replace(ranking, caps=[*ranking.caps, (column, _cap(job, scored, ranking, column, n))])
            stage.advance()
        (search,) = find_ends("select", scored, [Search(ranking, cuts)], stage.advance)
        every = max(1, passes.ROWS_PER_FILE // SAMPLED_PER_FILE)
        settings = {**search.ends(), "work": job.work, "every": every}
        chosen = list(light_pass("select", Chosen, scored, passes.choose_of_parts, **settings))
        stage.advance()
        sources = sum((Counter(record.sources) for record in chosen), Counter[str]())
        written = _write_ranked(job, chosen, sources.total())
        stage.advance(note=f"{sources.total():,} rows")
    return Selection(
        parts=written,
        sources=dict(sources),
        unit="examples" if cost == "rows" else "tokens",
        asked=asked,
        total=total,
        used=sum(cut.used for cut in search.cuts.values()),
        eligible=search.eligible,
        ranking=plain,
    )


def budgets_of(asked: int, quota: dict[str, float]) -> dict[str, budget.Cut]:
    """A search for each budget: one, or one for each group of the quota and one for what the quota leaves to the others."""
    shares = {group_label(name): share for name, share in quota.items()}
    left = 1 - sum(shares.values())
    if left > 1e-9:
        shares[WHOLE] = left
    return {name: budget.Cut((), int(asked * share + 1e-9)) for name, share in shares.items()}


def _cap(job: Job, scored: list[BlockPart], ranking: Ranking, column: str, n: int) -> str:
    """Write where a cap cuts the groups of each block; the folder of these cuts."""
    folder = urls.join(job.work, "caps", uuid.uuid4().hex)
    shuffles = shuffles_of(scored)
    best = over_parts(scored, passes.caps_of_part, ranking=asdict(ranking), column=column, n=n)
    cuts = mapped(best.repartition(shuffles, keys=["group"]), passes.cuts_of_groups, fn_kwargs={"n": n})
    written = mapped(cuts.repartition(shuffles, keys=["block"]), passes.write_cuts, fn_kwargs={"folder": folder})
    execute("select", Part, written)
    return folder


def _write_ranked(job: Job, chosen: list[Chosen], rows: int) -> list[BlockPart]:
    files = -(-rows // passes.ROWS_PER_FILE)
    if not files:
        return []
    sample = sorted(key for record in chosen for key in record.sample)
    files = min(files, len(sample) + 1)
    boundaries = [sample[len(sample) * i // files] for i in range(1, files)]
    parts = [part for record in chosen for part in record.parts]
    if files == 1 and is_small(parts):
        return list(light_pass("select", BlockPart, parts, passes.write_only_file, work=job.work))
    counts = list(light_pass("select", FileRows, parts, passes.count_files, boundaries=boundaries))
    in_file = [sum(rows[file] for rows in counts) for file in range(files)]
    offsets = [sum(in_file[:file]) for file in range(files)]
    dataset = over_parts(parts, passes.file_of_rows, boundaries=boundaries)
    dataset = dataset.sort("output_file", boundaries=list(range(1, files))) if files > 1 else dataset.repartition(1)
    ranked = mapped(dataset, passes.write_ranked, fn_kwargs={"offsets": offsets, "work": job.work})
    return by_block("select", execute("select", BlockPart, ranked))
