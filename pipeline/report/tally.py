"""What the report of a run needs of its rows, gathered part by part: a sample, counts of groups, extremes. Its size does not
grow with the rows, and tallies of parts join in any order.

A tally is a few small Arrow tables by name. Ids are hashes, so that the rows with the smallest ones are a random sample of all
rows and of the selected ones alike, and always the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.row_ids import in_share
from operators.schema import SELECTED
from operators.scoring.fitness import of_halves
from operators.scoring.scores import ScoreSettings, alternative_means
from operators.selection import filter
from pipeline.selection.ranking import costs_of
from pipeline.storage import urls
from pipeline.storage.records import Part, record_table, records_of
from pipeline.storage.whole_file import open_whole

SAMPLE = 100_000  # rows of each kind; figures of runs up to this size are those of all rows
EXTREMES = 25
_ROWS_AT_ONCE = 256  # with all their texts
MOST_GROUPS = 5_000  # of a column; of more, those with the most rows stay
SCORED, SELECTION, BEFORE = "scored", "selected", "before"

Tally = dict[str, pa.Table]

_PLACE = [pa.field("id", pa.string()), pa.field("path", pa.string()), pa.field("row", pa.int64())]
SAMPLED = pa.schema(
    [
        *_PLACE,
        *(pa.field(name, pa.float64()) for name in ("tss", "tss_pp", "ppl", "ifd", "random", "score")),
        pa.field("length", pa.int32()),
        pa.field("cost", pa.int64()),
        pa.field("passes", pa.bool_()),  # the filter, with a score that is a number
        # tss_pp by every second alternative alone, and by the others; null where there are no two of them.
        pa.field("half_a", pa.float64()),
        pa.field("half_b", pa.float64()),
        pa.field("selection_rank", pa.int64()),
    ]
)
_GROUPS = pa.schema(
    [
        pa.field("of", pa.string()),
        pa.field("column", pa.string()),
        pa.field("value", pa.string()),
        pa.field("rows", pa.int64()),
    ]
)
_SENT = pa.schema([pa.field("name", pa.string()), pa.field("table", pa.binary())])


@dataclass(frozen=True)
class Look:
    """What is looked for: the share of ids that are sampled, how the run ranks rows, and whether its rows name tasks. `score`
    is None where the score of a row does not follow from the row alone."""

    share: float
    score: str | None
    where: str | None
    cost: str
    tasks: bool
    settings: dict[str, Any]  # of the scores; none where an early release had others


@dataclass(frozen=True)
class Looked:
    """A part and what it holds: SCORED, SELECTION, or BEFORE for the selection of an earlier run."""

    part: Part
    kind: str


def tally_parts(batch: pa.Table, *, look: dict[str, Any]) -> pa.Table:
    """The tally of parts together, as a task sends it."""
    looked = list(records_of(Looked, batch))
    return sent(joined(tally_of(each, Look(**look)) for each in looked)) if looked else record_table([])


def sent(tally: Tally) -> pa.Table:
    """A tally as one table."""
    sinks = []
    for table in tally.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        sinks.append(sink.getvalue().to_pybytes())
    return pa.table([list(tally), sinks], schema=_SENT)


def received(table: pa.Table) -> Tally:
    """The tally that was sent as a table."""
    return {
        name: pa.ipc.open_stream(data).read_all()
        for name, data in zip(table["name"].to_pylist(), table["table"].to_pylist(), strict=True)
    }


def joined(tallies: Iterable[Tally]) -> Tally:
    """The tally of the rows of all of these."""
    total: Tally = {}
    for tally in tallies:
        for name, table in tally.items():
            both = pa.concat_tables([total[name], table]) if name in total else table
            total[name] = _reduced(name, both)
    return total


def _reduced(name: str, table: pa.Table) -> pa.Table:
    if name == "groups":
        counted = table.group_by(["of", "column", "value"]).aggregate([("rows", "sum")])
        counted = counted.rename_columns(["of", "column", "value", "rows"]).cast(_GROUPS)
        return counted if len(counted) <= MOST_GROUPS else _largest(counted)
    if name in ("best", "worst", "last"):
        key = ("selection_rank" if name == "last" else "tss_pp", "ascending" if name == "worst" else "descending")
        return _first(table, EXTREMES, [key, ("id", "ascending")])
    return _first(table, SAMPLE, [("id", "ascending")])


def _first(table: pa.Table, count: int, keys: list[tuple[str, str]]) -> pa.Table:
    if len(table) <= count:
        return table.sort_by(keys)
    return table.take(pc.select_k_unstable(table, count, keys)).combine_chunks()  # no two rows have one id


def _largest(counted: pa.Table) -> pa.Table:
    """The groups with the most rows of each column that has too many."""
    kept = []
    for pair in counted.group_by(["of", "column"]).aggregate([]).to_pylist():
        same = pc.and_(pc.equal(counted["of"], pair["of"]), pc.equal(counted["column"], pair["column"]))
        kept.append(_first(counted.filter(same), MOST_GROUPS, [("rows", "descending"), ("value", "ascending")]))
    return pa.concat_tables(kept)


def tally_of(looked: Looked, look: Look) -> Tally:
    """The tally of one part. Columns that an earlier release did not write count as null."""
    path, kind = looked.part.path, looked.kind
    if kind == BEFORE:
        return {kind: _sampled(read_known(path, ["id", "selection_rank"]), path, look, bare=True)}
    names = {"id", "source", "cluster", "length", "input", "messages", "turn", "tss", "tss_pp", "ppl", "ifd", "random"}
    names |= {"n_prompt_tokens", "n_target_tokens"} | ({"task"} if look.tasks else set())
    names |= {look.score} if look.score else set()
    names |= filter.column_names(filter.parse(look.where)) if look.where else set()
    columns = filter.needed_columns(names) + (["selection_rank"] if kind == SELECTION else [])
    table = read_known(path, columns)
    sample = _sampled(table, path, look)
    tally = {kind: sample, "groups": _grouped(table, kind, look.tasks)}
    places = pa.table([table["id"], *_placed(path, np.arange(len(table)))], schema=pa.schema(_PLACE))
    if kind == SELECTION:
        last = places.append_column("selection_rank", table["selection_rank"])
        tally["last"] = _reduced("last", _with_order(last, table, look))
    else:
        known = places.append_column("tss_pp", table["tss_pp"]).filter(pc.is_valid(table["tss_pp"]))
        tally |= {name: _reduced(name, known) for name in ("best", "worst")}
    return tally


def read_known(path: str, columns: list[str]) -> pa.Table:
    """Columns of SELECTED from a part, null where the part lacks them."""
    with _opened(path) as file:
        return _whole(file.read(_present(file, columns)), columns)


def read_places(path: str, columns: list[str], places: list[int]) -> pa.Table:
    """The same of some rows of a part, in the order of their places; the rows between them are read a few at a time."""
    ordered = np.sort(np.array(places, dtype=np.int64))
    batches, begin = [], 0
    with _opened(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=_present(file, columns)):
            inside = ordered[(ordered >= begin) & (ordered < begin + len(batch))] - begin
            batches.append(batch.take(pa.array(inside)))
            begin += len(batch)
    return _whole(pa.Table.from_batches(batches), columns).take(pa.array(np.searchsorted(ordered, places)))


def _opened(path: str) -> pq.ParquetFile:
    source = open_whole(path) if urls.is_url(path) else path
    return pq.ParquetFile(source, memory_map=not urls.is_url(path), page_checksum_verification=True)


def _present(file: pq.ParquetFile, columns: list[str]) -> list[str]:
    names = set(file.schema_arrow.names)
    return [name for name in columns if name in names]


def _whole(table: pa.Table, columns: list[str]) -> pa.Table:
    present = set(table.column_names)
    filled = [table[name] if name in present else pa.nulls(len(table), SELECTED.field(name).type) for name in columns]
    table = pa.table(filled, names=columns)
    if "extra" in columns:
        table = table.set_column(columns.index("extra"), "extra", pc.fill_null(table["extra"], "{}"))
    return table


def _placed(path: str, rows: np.ndarray) -> list[pa.Array]:
    return [pa.array(np.full(len(rows), path, dtype=object), pa.string()), pa.array(rows, pa.int64())]


def _sampled(table: pa.Table, path: str, look: Look, *, bare: bool = False) -> pa.Table:
    """SAMPLED rows of a part: those with the smallest ids."""
    drawn = np.flatnonzero(in_share(table["id"], look.share).to_numpy())
    table = table.take(pa.array(drawn))
    columns: dict[str, Any] = {"id": table["id"]}
    columns["path"], columns["row"] = _placed(path, drawn)
    if not bare:
        columns |= {name: table[name] for name in ("tss", "tss_pp", "ppl", "ifd", "random", "length")}
        ordered = _with_order(pa.table({"id": table["id"]}), table, look)
        columns |= {name: ordered[name] for name in ("score", "cost", "passes")}
        columns["half_a"], columns["half_b"] = _halves(path, drawn, look)
    if "selection_rank" in table.column_names:
        columns["selection_rank"] = table["selection_rank"]
    return pa.table(
        [columns.get(name, pa.nulls(len(drawn), SAMPLED.field(name).type)) for name in SAMPLED.names], schema=SAMPLED
    )


def _with_order(rows: pa.Table, table: pa.Table, look: Look) -> pa.Table:
    """The rows with what decides about them: score, random, cost, and whether they may be taken."""
    scores = np.full(len(table), np.nan) if look.score is None else filter.numeric(table, look.score)
    passes = np.isfinite(scores)
    if look.where:
        passes &= filter.evaluate(filter.parse(look.where), table)
    rows = rows.append_column("score", pa.array(scores, from_pandas=True))
    rows = rows.append_column("random", table["random"]).append_column("passes", pa.array(passes))
    tokens = table.select(["n_prompt_tokens", "n_target_tokens"])
    filled = pa.table([pc.fill_null(column, 0) for column in tokens.columns], names=tokens.column_names)
    return rows.append_column("cost", pa.array(costs_of(filled, look.cost)))


def _halves(path: str, drawn: np.ndarray, look: Look) -> tuple[pa.Array, pa.Array]:
    """Tss_pp of rows of a part by every second alternative, and by the others. Likelihoods alone are read, without texts."""
    nothing = pa.nulls(len(drawn), pa.float64())
    if not look.settings:
        return nothing, nothing
    with _opened(path) as file:
        table = file.read(["loglik_mean", "alternatives.list.element.loglik_mean"])
    if table.column_names != ["loglik_mean", "alternatives"]:
        return nothing, nothing
    table = table.take(pa.array(drawn))
    own = table["loglik_mean"].to_numpy().astype(np.float64)
    others = alternative_means(pa.chunked_array([pc.fill_null(table["alternatives"].combine_chunks(), [])]))
    settings = ScoreSettings(**look.settings)
    first, second = of_halves(own, others, settings, hardest=settings.hardest)
    return pa.array(first, from_pandas=True), pa.array(second, from_pandas=True)


def _grouped(table: pa.Table, kind: str, tasks: bool) -> pa.Table:
    """_GROUPS of a part: how many rows it has of each source, cluster, task, length and layout."""
    lengths = pc.fill_null(table["length"], 0).to_numpy().astype(np.int64)
    floors = 2 ** np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    columns = {
        "source": table["source"],
        "cluster": pc.cast(table["cluster"], pa.string()),
        "length": pa.array(floors).cast(pa.string()),
        "layout": pa.array(_layouts(table)),
    }
    if tasks:
        columns["task"] = filter.groups(table, "task")
    counted = []
    for name, values in columns.items():
        groups = pa.table({"value": values}).group_by("value").aggregate([([], "count_all")])
        named = [pa.array(np.full(len(groups), text, dtype=object), pa.string()) for text in (kind, name)]
        counted.append(pa.table([*named, groups["value"], groups["count_all"]], schema=_GROUPS))
    return pa.concat_tables(counted)


def _layouts(table: pa.Table) -> np.ndarray:
    """What each row was, as far as its columns tell."""
    with_input = pc.fill_null(pc.not_equal(table["input"], ""), False).to_numpy(zero_copy_only=False)
    chat, turns = (table[name].is_valid().to_numpy() for name in ("messages", "turn"))
    named = np.where(with_input, "instruction with input", "instruction alone").astype(object)
    named[chat] = "last exchange of a conversation"
    named[turns] = "turn of a conversation"
    return named
