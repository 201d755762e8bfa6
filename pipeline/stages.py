"""The driver's side of each stage: build the dataset, run it, keep the records. What happens to rows is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from operators import budget, where
from pipeline import admit, place, retrieve, score, selecting
from pipeline.config import Config
from pipeline.errors import BadRequest, RunFailed
from pipeline.parts import Record, records_of
from pipeline.preflight import Checked
from pipeline.progress import Reporter
from pipeline.resources import Pools, actor_pool
from pipeline.sources import Chunk

EMBED_BATCHES = 4  # batches of the embedder in one range of instructions
NEIGHBOUR_RANGE = 2048
SHUFFLE_BYTES = 64 << 20  # admitted text in one block of the shuffle that finds duplicates
TEXT_PER_PARQUET_BYTE = 4  # what compressed text takes in memory
ORDER_SAMPLE = 1000


@dataclass(frozen=True)
class Run:
    """One run under way: its folder for parts, and what every stage needs."""

    config: Config
    work: str
    pools: Pools
    reporter: Reporter

    @property
    def index(self) -> str:
        """Folder of the instruction table, its embeddings and neighbours."""
        return str(Path(self.work) / "index")


def _items(items: list[Any]) -> Any:
    """A dataset with one block for each item, as JSON."""
    texts = [item if isinstance(item, str) else json.dumps(item) for item in items]
    return ray.data.from_items([{"item": text} for text in texts], override_num_blocks=max(1, len(texts)))


def _map(dataset: Any, function: Any, **options: Any) -> Any:
    return dataset.map_batches(function, batch_format="pyarrow", **{"batch_size": None, **options})


def _execute(stage: str, dataset: Any, tick: Callable[[Record], None] = lambda record: None) -> list[Record]:
    """Run a stage to its end; whatever goes wrong in it becomes RunFailed with the cause in one line."""
    try:
        return records_of(dataset, tick)
    except RayError as error:
        raise RunFailed(stage, _cause(error)) from error


def _cause(error: BaseException) -> str:
    """The last line of the deepest exception that says anything: Ray wraps, and some of its wrappers are empty."""
    cause = type(error).__name__
    deeper: Any = error
    while isinstance(deeper, BaseException):
        lines = [line.strip() for line in str(deeper).splitlines() if line.strip()]
        cause, deeper = lines[-1] if lines else cause, getattr(deeper, "cause", None) or deeper.__cause__
    return cause[:1000]


def _once(stage: str, function: Callable, *args: Any) -> Any:
    """Run a plain function in one task of the cluster: its memory is not the driver's."""
    try:
        return ray.get(ray.remote(num_cpus=1)(function).remote(*args))
    except RayError as error:
        raise RunFailed(stage, _cause(error)) from error


def read(run: Run, chunks: list[Chunk], checked: Checked) -> list[Record]:
    """Admit or reject every row; records by chunk."""
    chunks = _with_line_numbers(chunks)
    with run.reporter.stage("read", len(chunks), "chunks") as stage:
        rows = 0

        def tick(record: Record) -> None:
            nonlocal rows
            rows += record["read"]
            stage.advance(note=f"{rows:,} rows")

        kwargs = {"work": run.work, "encoder": checked.encoder, "too_long": run.config.scorer.too_long}
        return _execute(
            "read", _map(_items([chunk.to_json() for chunk in chunks]), admit.admit_chunk, fn_kwargs=kwargs), tick
        )


def _with_line_numbers(chunks: list[Chunk]) -> list[Chunk]:
    """Lines are numbered within a file, so a file in several byte ranges needs its lines counted first."""
    split = [
        chunk
        for chunk in chunks
        if chunk.kind == "jsonl" and chunk.stop >= 0 and (chunk.start or chunk.stop < chunk.size)
    ]
    if not split:
        return chunks
    counted = _execute("read", _map(_items([chunk.to_json() for chunk in split]), admit.count_chunk))
    lines = {tuple(record["index"]): record["lines"] for record in counted}
    result: list[Chunk] = []
    next_line: dict[tuple[int, int], int] = {}
    for chunk in chunks:
        file = (chunk.input_index, chunk.file_index)
        result.append(replace(chunk, first_line=next_line.get(file, 1)))
        next_line[file] = next_line.get(file, 1) + lines.get((*file, chunk.start), 0)
    return result


def retrieve_alternatives(run: Run, admitted: list[Record], pool_texts: list[str] | None) -> Record:
    """Build the index: distinct instructions, embeddings in an actor pool, exact neighbours."""
    config = run.config
    with run.reporter.stage("instructions", len(admitted)) as stage:
        parts = _execute(
            "instructions",
            _map(_items(admitted), retrieve.instructions_of_part, fn_kwargs={"work": run.work}),
            lambda record: stage.advance(note=f"{record['rows']:,} in this part"),
        )
        table = _once("instructions", retrieve.build_table, parts, run.index, pool_texts)
        stage.advance(0, f"{table['instructions']:,} distinct instructions")
    ranges = _ranges(table["instructions"], EMBED_BATCHES * config.embedder.batch_size)
    with run.reporter.stage("embed", len(ranges), "ranges") as stage:
        kwargs = {
            "work": run.work,
            "index": run.index,
            "threads": run.pools.threads_per_embedder,
            **config.embedder.model_dump(),
        }
        dataset = _map(
            _items(ranges),
            retrieve.EmbedRange,
            fn_constructor_kwargs=kwargs,
            compute=actor_pool(run.pools.embedders),
            batch_size=1,
            num_gpus=run.pools.gpus_per_embedder or None,
        )
        parts = _execute("embed", dataset, lambda record: stage.advance())
        _once("embed", retrieve.build_matrix, parts, run.index)
    ranges = _ranges(table["instructions"], NEIGHBOUR_RANGE)
    with run.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": run.work, "pool": pool_settings(run), "k": config.alternatives.k}
        parts = _execute(
            "neighbours",
            _map(_items(ranges), retrieve.neighbours_of_range, fn_kwargs=kwargs),
            lambda record: stage.advance(),
        )
        _once("neighbours", retrieve.build_neighbours, parts, run.index)
    return table


def _ranges(count: int, size: int) -> list[dict[str, int]]:
    return [{"start": start, "stop": min(start + size, count)} for start in range(0, count, size)]


def pool_settings(run: Run) -> dict[str, Any]:
    """What a worker needs to load the pool."""
    wanted = run.config.alternatives
    return {"index": run.index, "paraphrase_max": wanted.paraphrase_max, "same_task": wanted.same_task}


def place_rows(run: Run, admitted: list[Record], tokens: int) -> list[Record]:
    """Shuffle rows to their places and mark duplicates; records in the order of the blocks."""
    blocks = place.block_count(tokens, run.config.alternatives.k)
    shuffles = max(1, -(-sum(part["bytes"] for part in admitted) * TEXT_PER_PARQUET_BYTE // SHUFFLE_BYTES))
    dataset = _map(_items(admitted), place.read_parts).repartition(shuffles, keys=["pair_key"])
    dataset = _map(dataset, place.place_rows, fn_kwargs={"index": run.index, "blocks": blocks})
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    with run.reporter.stage("place", blocks, "blocks") as stage:
        records = _execute(
            "place", _map(dataset, place.write_block, fn_kwargs={"work": run.work}), lambda record: stage.advance()
        )
        return sorted(records, key=lambda record: record["block"])


def score_blocks(run: Run, placed: list[Record], encoder: dict[str, Any], model: dict[str, Any]) -> list[Record]:
    """Score block by block in the actor pool; records in the order of the blocks."""
    config = run.config
    kwargs = {
        "work": run.work,
        "index": run.index,
        "encoder": encoder,
        "pool": pool_settings(run),
        "model": model,
        "batch_tokens": config.scorer.batch_tokens,
        "k": config.alternatives.k,
        "score": config.score.model_dump(),
        "threads": run.pools.threads_per_scorer,
    }
    dataset = _map(
        _items(placed),
        score.ScoreBlock,
        fn_constructor_kwargs=kwargs,
        compute=actor_pool(run.pools.scorers),
        batch_size=1,
        num_gpus=run.pools.gpus_per_scorer or None,
    )
    with run.reporter.stage("score", len(placed), "blocks") as stage:
        done = {"pairs": 0, "seconds": 0.0}

        def tick(record: Record) -> None:
            done["pairs"] += record["work"]["computed"]
            done["seconds"] += record["seconds"]
            stage.advance(
                note=f"{done['pairs']:,} pairs, {done['pairs'] / max(done['seconds'], 1e-9):,.0f} a second and scorer"
            )

        return sorted(_execute("score", dataset, tick), key=lambda record: record["block"])


def rescore(run: Run, parts: list[Record]) -> list[Record]:
    """Scores anew from known likelihoods."""
    with run.reporter.stage("rescore", len(parts)) as stage:
        kwargs = {"work": run.work, "score": run.config.score.model_dump()}
        records = _execute(
            "rescore", _map(_items(parts), score.rescore_part, fn_kwargs=kwargs), lambda record: stage.advance()
        )
        return sorted(records, key=lambda record: record["block"])


@dataclass(frozen=True)
class Selection:
    """What was selected: parts best first, rows by source, and the budget asked and used in its unit."""

    parts: list[Record]
    sources: dict[str, int]
    unit: str
    asked: int
    total: int
    used: int


def select(run: Run, scored: list[Record]) -> Selection:
    """Select the longest prefix of the ranking under the budget."""
    wanted = run.config.select
    ((unit, _),) = wanted.budget.items()
    cost = "rows" if unit.startswith("example") else wanted.cost
    names = [] if isinstance(wanted.score, str) else list(wanted.score)
    slim = [{"path": record["path"]} for record in scored]
    with run.reporter.stage("select", None, "passes") as stage:

        def sweep(function: Any, **kwargs: Any) -> list[Record]:
            records = _execute("select", _map(_items(slim), function, fn_kwargs=kwargs))
            stage.advance()
            return records

        totals = sweep(selecting.totals_of_part, score=names, cost=cost)
        total = sum(record["total"] for record in totals)
        asked = budget.largest_budget(total, wanted.budget)
        cuts = _budgets(asked, wanted.quota)
        ranking = selecting.Ranking(
            wanted.score,
            selecting.moments_of(totals, names),
            cost,
            wanted.where,
            [],
            [*wanted.quota, *([selecting.WHOLE] if wanted.quota and selecting.WHOLE in cuts else [])],
        )
        for column, n in wanted.max_per.items():
            ranking = replace(ranking, caps=[*ranking.caps, (column, _cap(run, slim, ranking, column, n))])
            stage.advance()

        def histograms(prefixes: dict[str, list[int]]) -> Any:
            stage.advance()
            return _map(
                _items(slim), selecting.histogram_of_part, fn_kwargs={"ranking": asdict(ranking), "prefixes": prefixes}
            )

        try:
            cuts = selecting.search(histograms, cuts)
        except RayError as error:
            raise RunFailed("select", _cause(error)) from error
        chosen = sweep(
            selecting.choose_of_part,
            ranking=asdict(ranking),
            work=run.work,
            sample=ORDER_SAMPLE,
            cuts={name: None if cut.prefix is None else list(cut.prefix) for name, cut in cuts.items()},
        )
        rows = sum(cut.rows for cut in cuts.values())
        parts = _write_ranked(run, chosen, rows)
        stage.advance(note=f"{rows:,} rows")
    sources: dict[str, int] = {}
    for record in chosen:
        for source, number in record["sources"].items():
            sources[source] = sources.get(source, 0) + number
    return Selection(
        parts, sources, "examples" if cost == "rows" else "tokens", asked, total, sum(cut.used for cut in cuts.values())
    )


def _budgets(asked: int, quota: dict[str, float]) -> dict[str, budget.Cut]:
    """A search for each budget: one, or one for each source of the quota and one for what the quota leaves to the others."""
    shares = dict(quota)
    left = 1 - sum(shares.values())
    if left > 1e-9:
        shares[selecting.WHOLE] = left
    return {name: budget.Cut((), int(asked * share + 1e-9)) for name, share in shares.items()}


def _cap(run: Run, slim: list[Record], ranking: selecting.Ranking, column: str, n: int) -> list[str]:
    best = _map(_items(slim), selecting.caps_of_part, fn_kwargs={"ranking": asdict(ranking), "column": column, "n": n})
    cuts = _map(
        best.repartition(max(1, len(slim) // 16), keys=["group"]),
        selecting.cuts_of_groups,
        fn_kwargs={"work": run.work, "n": n},
    )
    return [record["path"] for record in _execute("select", cuts)]


def _write_ranked(run: Run, chosen: list[Record], rows: int) -> list[Record]:
    files = -(-rows // selecting.ROWS_PER_FILE)
    if not files:
        return []
    sample = sorted(order for record in chosen for order in record["orders"])
    boundaries = [sample[len(sample) * i // files] for i in range(1, files)]
    items = [{"path": record["path"]} for record in chosen]
    counts = _execute("select", _map(_items(items), selecting.count_files, fn_kwargs={"boundaries": boundaries}))
    in_file = [sum(record["rows"][file] for record in counts) for file in range(files)]
    offsets = [sum(in_file[:file]) for file in range(files)]
    dataset = _map(_items(items), selecting.file_of_rows, fn_kwargs={"boundaries": boundaries})
    dataset = dataset.sort("file", boundaries=list(range(1, files))) if files > 1 else dataset.repartition(1)
    records = _execute(
        "select", _map(dataset, selecting.write_ranked, fn_kwargs={"offsets": offsets, "work": run.work})
    )
    return sorted(records, key=lambda record: record["block"])


def require_columns(config: Config, keys: list[str]) -> None:
    """Raise BadRequest where a filter or a cap names a column that neither the scored table nor any row has."""
    named = {f"select.max_per.{name}": name for name in config.select.max_per}
    if config.select.where:
        named |= {f"select.where ({name})": name for name in where.column_names(where.parse(config.select.where))}
    known = {*where.SCORED.names, *keys}
    for key, name in named.items():
        if name not in known:
            raise BadRequest(f"{key}: no column {name!r}; accepted: {', '.join([*where.SCORED.names, *keys])}")
