"""Stage 1b: of rows that are nearly the same, one stays; what becomes of the others is listed.

    admitted parts -> keys of bands, shuffled -> pairs to compare -> their texts, shuffled -> similar pairs -> which rows go

The driver sees records of parts alone. Pairs, and then the ids of the rows that go, lie in the memory of one task in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.minhash import Bands, band_keys, bands_for, signatures
from operators.near_duplicates import Dropped, Ranked, distinct_pairs, pairs_in_buckets, settle, similarities
from operators.row_ids import firsts, hex_ids, id_words, number_ids, places_of, sort_ids
from operators.schema import CANDIDATE_PAIRS, DROPPED, NEAR_DUPLICATES, SIMILAR_PAIRS
from operators.shingles import FoldedRow, fold_row
from pipeline.engine import metrics
from pipeline.engine.job import SHUFFLE_BYTES, Job, execute, items, mapped, once
from pipeline.storage import urls
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import (
    BlockPart,
    CandidatePart,
    NearDuplicates,
    NearDuplicatesAccount,
    Part,
    SievedPart,
    record_table,
    records_of,
)

GROUP_CHARS = 16 << 20  # of text in a group of pairs that are compared in one task
PUBLISHED_ROWS = 1 << 20  # in a part of near duplicates
_KEY_BYTES = 48  # of a row's band in the shuffle
_ROW_CHARS = 500  # what a row costs beside its text
_TEXTS = ["instruction", "input", "output"]


@dataclass(frozen=True)
class Sieved:
    """What is left of the admitted parts, the near duplicates, and what finding them took."""

    admitted: list[Part]
    near: NearDuplicates
    account: NearDuplicatesAccount


def drop_near_duplicates(job: Job, admitted: list[Part], threshold: float) -> Sieved:
    """Take near duplicates out of the admitted rows."""
    folder = urls.join(job.work, "near")
    with job.reporter.stage("near", 5, "passes") as stage:
        bands = bands_for(threshold)
        records = sum(part.rows for part in admitted) * bands.count
        keyed = mapped(items(admitted), keys_of_part, fn_kwargs={"bands": bands})
        keyed = keyed.repartition(max(1, -(-records * _KEY_BYTES // SHUFFLE_BYTES)), keys=["key"])
        candidates = execute("near", CandidatePart, mapped(keyed, pair_rows, fn_kwargs={"folder": folder}))
        stage.advance()
        groups, compared = once("near", group_pairs, [record.part for record in candidates], folder, GROUP_CHARS)
        stage.advance(note=f"{compared:,} pairs to compare")
        similar = _compare(job, admitted, threshold, folder, groups)
        stage.advance(note=f"{sum(part.rows for part in similar):,} pairs of near duplicates")
        account = NearDuplicatesAccount(
            compared, sum(part.rows for part in similar), max((record.crowded for record in candidates), default=0)
        )
        if not account.similar:
            stage.advance(2, "0 rows")
            return Sieved(admitted, NearDuplicates([], {}, {}), account)
        once("near", settle_pairs, similar, folder)
        stage.advance()
        numbered = [BlockPart(number, part) for number, part in enumerate(admitted)]
        sieve = mapped(items(numbered), sieve_part, fn_kwargs={"work": job.work, "folder": folder})
        sieved = sorted(execute("near", SievedPart, sieve), key=lambda record: record.number)
        near: NearDuplicates = once(
            "near", list_dropped, [part.dropped for part in sieved if part.dropped], folder, PUBLISHED_ROWS
        )
        stage.advance(note=f"{sum(near.rows.values()):,} rows")
    metrics.count("tss_rows", sum(near.rows.values()), outcome="near_duplicate")
    metrics.count("tss_rows", sum(near.copies.values()), outcome="duplicate")
    return Sieved([record.kept for record in sieved if record.kept], near, account)


def _compare(job: Job, admitted: list[Part], threshold: float, folder: str, groups: int) -> list[Part]:
    """Bring the texts of each group of pairs together and compare them; the parts of similar pairs."""
    if not groups:
        return []
    texts = mapped(items(admitted), texts_of_part, fn_kwargs={"folder": folder})
    compared = mapped(
        texts.repartition(groups, keys=["group"]), compare_groups, fn_kwargs={"folder": folder, "threshold": threshold}
    )
    return execute("near", Part, compared)


def keys_of_part(batch: pa.Table, *, bands: Bands) -> Iterable[pa.Table]:
    """For each row of admitted parts and each band of its signature: the key of the band and of the next one."""
    for part in records_of(Part, batch):
        table = read_table(part.path, ["id", "input_index", *_TEXTS])
        keys = band_keys(signatures(_folded(table)), bands)
        words = id_words(table["id"].to_pylist()).repeat(bands.count, axis=0)
        yield pa.table(
            {
                "key": keys.reshape(-1),
                "following": np.roll(keys, -1, axis=1).reshape(-1),
                "id_0": words[:, 0],
                "id_1": words[:, 1],
                "input": table["input_index"].to_numpy().astype(np.int64).repeat(bands.count),
                "chars": _chars(table).repeat(bands.count),
            }
        )


def _folded(table: pa.Table) -> list[FoldedRow]:
    return [fold_row(*texts) for texts in zip(*(table[name].to_pylist() for name in _TEXTS), strict=True)]


def _chars(table: pa.Table) -> np.ndarray:
    """Int64 [N]: characters of each row's texts."""
    lengths = [pc.utf8_length(table[name]).to_numpy().astype(np.int64) for name in _TEXTS]
    total: np.ndarray = lengths[0] + lengths[1] + lengths[2]
    return total


def _ids(table: pa.Table, side: str) -> np.ndarray:
    words: np.ndarray = np.c_[table[f"{side}_0"].to_numpy(), table[f"{side}_1"].to_numpy()].astype(np.uint64)
    return words


def pair_rows(table: pa.Table, *, folder: str) -> pa.Table:
    """Write the pairs to compare of rows that share the key of a band, all rows of one key together."""
    if not len(table):
        return record_table([])
    rows = Ranked(_ids(table, "id"), table["input"].to_numpy(), table["chars"].to_numpy())
    pairs, crowded = pairs_in_buckets(rows, table["key"].to_numpy(), table["following"].to_numpy())
    pairs = distinct_pairs(rows.ids, pairs)
    written = _pair_table(rows.ids[pairs[:, 0]], rows.ids[pairs[:, 1]], {"chars": rows.chars[pairs].sum(axis=1)})
    return record_table([CandidatePart(write_part(urls.join(folder, "candidates"), written, CANDIDATE_PAIRS), crowded)])


def _pair_table(some: np.ndarray, others: np.ndarray, beside: dict[str, np.ndarray]) -> pa.Table:
    columns = {"some_0": some[:, 0], "some_1": some[:, 1], "other_0": others[:, 0], "other_1": others[:, 1]}
    return pa.table({**columns, **beside})


def group_pairs(parts: list[Part], folder: str, chars: int) -> tuple[int, int]:
    """Cut the distinct pairs into groups of so much text, which a task can compare, and note which rows each needs; groups, and
    pairs."""
    table = pa.concat_tables([CANDIDATE_PAIRS.empty_table(), *(read_table(part.path) for part in parts)])
    some, others = _ids(table, "some"), _ids(table, "other")
    order = sort_ids(some, after=(others[:, 1], others[:, 0]))
    order = order[firsts(np.c_[some, others][order])]
    if not len(order):
        return 0, 0
    costs = np.cumsum(table["chars"].to_numpy()[order] + 2 * _ROW_CHARS)
    _, groups = np.unique((costs - costs[0]) // chars, return_inverse=True)
    count = int(groups[-1]) + 1
    keys, members = [], []
    for group, rows in enumerate(np.split(order, np.searchsorted(groups, np.arange(1, count)))):
        write_table(urls.join(folder, f"pairs-{group:06d}.parquet"), table.take(pa.array(rows)))
        needed, _ = number_ids(np.concatenate([some[rows], others[rows]]))
        keys.append(needed[:, 0])
        members.append(np.full(len(needed), group, dtype=np.int64))
    by_key = np.argsort(np.concatenate(keys), kind="stable")
    save_array(urls.join(folder, "member-keys.arrow"), np.concatenate(keys)[by_key])
    save_array(urls.join(folder, "member-groups.arrow"), np.concatenate(members)[by_key])
    return count, len(order)


@lru_cache(maxsize=1)
def _members(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """First halves of ids uint64 [M] in order, and the group int64 [M] that needs such a row."""
    return load_array(urls.join(folder, "member-keys.arrow")), load_array(urls.join(folder, "member-groups.arrow"))


def texts_of_part(batch: pa.Table, *, folder: str) -> Iterable[pa.Table]:
    """The rows of admitted parts that are to be compared, for each group that needs them, with the group beside."""
    keys, groups = _members(folder)
    for part in records_of(Part, batch):
        table = read_table(part.path, ["id", "input_index", *_TEXTS])
        wanted = id_words(table["id"].to_pylist())[:, 0]
        low = np.searchsorted(keys, wanted, side="left")
        counts = np.searchsorted(keys, wanted, side="right") - low
        rows = np.repeat(np.arange(len(table)), counts)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + low[rows]
        yield table.take(pa.array(rows)).append_column("group", pa.array(groups[places], pa.int64()))


def compare_groups(table: pa.Table, *, folder: str, threshold: float) -> pa.Table:
    """Write the similar pairs of each group, all of whose texts are here."""
    return record_table(
        write_part(
            urls.join(folder, "similar"),
            _similar(table.filter(pc.equal(table["group"], group)), group, folder, threshold),
            SIMILAR_PAIRS,
        )
        for group in sorted(pc.unique(table["group"]).to_pylist())
    )


def _similar(table: pa.Table, group: int, folder: str, threshold: float) -> pa.Table:
    pairs = read_table(urls.join(folder, f"pairs-{group:06d}.parquet"))
    words = id_words(table["id"].to_pylist())
    order = sort_ids(words, after=(table["input_index"].to_numpy(),))
    order = order[firsts(words[order])]  # of copies of a row, the one in the first input
    table, words = table.take(pa.array(order)), words[order]
    sides = [places_of(_ids(pairs, side), words) for side in ("some", "other")]
    if min(side.min() for side in sides) < 0:
        raise ValueError(f"group {group} of pairs lacks a row")
    similarity = similarities(_folded(table), np.c_[sides[0], sides[1]], threshold)
    near = similarity >= threshold
    inputs, chars = table["input_index"].to_numpy().astype(np.int64), _chars(table)
    some, others = (side[near] for side in sides)
    ranks = {"some_input": inputs[some], "some_chars": chars[some]}
    ranks |= {"other_input": inputs[others], "other_chars": chars[others]}
    return _pair_table(words[some], words[others], {**ranks, "similarity": similarity[near]})


def settle_pairs(parts: list[Part], folder: str) -> None:
    """Note which rows go, and for which."""
    table = pa.concat_tables([read_table(part.path) for part in parts])
    some, others = (
        Ranked(_ids(table, side), table[f"{side}_input"].to_numpy(), table[f"{side}_chars"].to_numpy())
        for side in ("some", "other")
    )
    dropped = settle(some, others, table["similarity"].to_numpy())
    for name, values in vars(dropped).items():
        save_array(urls.join(folder, f"dropped-{name}.arrow"), values)


@lru_cache(maxsize=1)
def _dropped(folder: str) -> Dropped:
    return Dropped(*(load_array(urls.join(folder, f"dropped-{name}.arrow")) for name in Dropped.__annotations__))


def sieve_part(batch: pa.Table, *, work: str, folder: str) -> pa.Table:
    """Write each admitted part without its near duplicates, where it has any, and where these stood."""
    records = []
    for record in records_of(BlockPart, batch):
        table = read_table(record.part.path)
        goes = places_of(id_words(table["id"].to_pylist()), _dropped(folder).ids) >= 0
        kept: Part | None = record.part
        gone = None
        if goes.any():
            rest = table.filter(pa.array(~goes))
            kept = write_part(f"{work}/admitted", rest, table.schema) if len(rest) else None
            gone = write_part(urls.join(folder, "dropped"), table.filter(pa.array(goes)).select(DROPPED.names), DROPPED)
        records.append(SievedPart(record.block, kept, gone))
    return record_table(records)


def list_dropped(parts: list[Part], folder: str, rows: int) -> NearDuplicates:
    """Write where near duplicates stood, so many in a part, in the order of the input, and which row stays for each. Copies of
    one are duplicates of the first of them."""
    table = pa.concat_tables([read_table(part.path) for part in parts])
    table = table.sort_by([(name, "ascending") for name in ("input_index", "file_index", "line", "turn", "id")])
    words, dropped = id_words(table["id"].to_pylist()), _dropped(folder)
    order = sort_ids(words)  # stable: copies stay in the order of the input
    first = np.zeros(len(table), dtype=bool)
    first[order] = firsts(words[order])
    copies = Counter(table.filter(pa.array(~first))["source"].to_pylist())
    table = table.filter(pa.array(first))
    places = places_of(words[first], dropped.ids)
    listed = table.select(["id", "source", "file", "line", "turn"])
    listed = listed.append_column("stayed", pa.array(hex_ids(dropped.stayed[places]), pa.string()))
    listed = listed.append_column("similarity", pa.array(dropped.similarity[places]))
    written = [
        write_part(urls.join(folder, "listed"), listed.slice(start, rows), NEAR_DUPLICATES)
        for start in range(0, len(listed), rows)
    ]
    return NearDuplicates(written, dict(Counter(listed["source"].to_pylist())), dict(copies))
