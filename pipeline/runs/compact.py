"""Parts of the store written anew: in fewer and larger ones, each row once, or only rows that are still wanted.

A pass reads parts, brings the rows of a group together and writes them; only when all new parts are there do the old ones go. A
pass that dies leaves pairs twice, never none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash
from operators.schema import EMBEDDINGS, GENERATED, STORED, conform
from pipeline.engine.job import execute, mapped, over_parts
from pipeline.engine.progress import Reporter
from pipeline.errors import RunFailed
from pipeline.runs import workspace
from pipeline.storage import computed, files, urls
from pipeline.storage.parts import read_whole
from pipeline.storage.records import Part, record_table, records_of

BYTES_PER_PART = 32 << 20  # packed, as stored; what a process holds of it unpacked is several times as much
KINDS = {
    computed.LIKELIHOODS: (STORED, "group"),
    computed.EMBEDDINGS: (EMBEDDINGS, "key"),
    computed.GENERATED: (GENERATED, "key"),
}


@dataclass(frozen=True)
class Source:
    """A part that is read: one of the store as a run has written it, or `wanted`, published SCORED rows whose pairs are."""

    path: str
    kind: str
    run: str | None = None
    wanted: Part | None = None


class Written(NamedTuple):
    """A part that was written, if there was a row for it."""

    path: str | None


def rewrite(
    reporter: Reporter, kind: str, folder: str, old: list[tuple[str, str, int]], wanted: list[Part] | None = None
) -> None:
    """Write parts, (run, path, bytes), anew, each of their rows once; with `wanted`, SCORED parts, pairs of the groups of their
    rows alone. Raises RunFailed, with all old parts still there, unless each of them was read, those that are wanted are as
    they were published, and each new one is there."""
    _, key = KINDS[kind]
    old = _of_this_version(kind, old)
    # A name of its own: what is written must never bear that of a part that goes.
    target = urls.join(folder, f"{workspace.new_run_id(files.list_folders(folder))}-compacted")
    sources = [Source(path, kind, run) for run, path, _ in old] + [
        Source(part.path, kind, wanted=part) for part in wanted or []
    ]
    shuffles = max(1, -(-sum(size for _, _, size in old) // BYTES_PER_PART))
    if old:
        with reporter.stage("compact", shuffles) as stage:
            dataset = over_parts(sources, rows_and_wanted).repartition(shuffles, keys=[key])
            options = {"folder": target, "kind": kind, "all_wanted": wanted is None}
            new = execute(
                "compact", Written, mapped(dataset, write_compacted, fn_kwargs=options), lambda part: stage.advance()
            )
        for (path,) in new:
            if path is not None and not files.exists(path):
                raise RunFailed(
                    "compact",
                    f"a worker has written {path}, and it is not there; nothing was removed. Accepted: an output on "
                    "storage that all machines of the cluster see",
                )
    for _, path, _ in old:
        files.delete(path)
    files.delete_empty_below(folder)


def _of_this_version(kind: str, parts: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Those of the parts, (run, path, bytes), whose rows can be written anew: what another version wrote is left to it."""
    sources = [Source(path, kind) for _, path, _ in parts]
    readable = (
        {part.path for part in execute("compact", Source, over_parts(sources, with_columns))} if sources else set()
    )
    return [part for part in parts if part[1] in readable]


def with_columns(batch: pa.Table) -> pa.Table:
    """The parts that have the columns of this version."""
    return record_table(
        source for source in records_of(Source, batch) if computed.has_columns(source.path, KINDS[source.kind][0])
    )


def _schema(kind: str) -> pa.Schema:
    """Rows of the store with the run that wrote them; a row without a run says that its group is wanted."""
    return pa.schema([*KINDS[kind][0], pa.field("run", pa.string())])


def rows_and_wanted(batch: pa.Table) -> Iterable[pa.Table]:
    """Rows of parts of the store with their run, and the groups of rows of SCORED parts without one."""
    for source in records_of(Source, batch):
        schema, _ = KINDS[source.kind]
        if source.wanted is not None:
            yield _wanted_groups(source.wanted, _schema(source.kind))
            continue
        if not files.exists(source.path):  # `undamaged` would pass it over, and then it would be removed
            raise FileNotFoundError(f"{source.path}: is gone, or this machine does not see it")
        for _, table in computed.undamaged([source.path], None, schema):
            yield conform(table.append_column("run", pa.array([source.run] * len(table))), _schema(source.kind))


def _wanted_groups(published: Part, schema: pa.Schema) -> pa.Table:
    rows = read_whole(published, ["input", "output"]).to_pylist()
    groups = {content_hash(row["input"], row["output"]) for row in rows}
    groups |= {content_hash(row["output"]) for row in rows}
    columns = {field.name: pa.nulls(len(groups), field.type) for field in schema}
    columns["group"] = pa.array(sorted(groups), pa.binary(16))
    return conform(pa.table(columns), schema)


def write_compacted(batch: pa.Table, *, folder: str, kind: str, all_wanted: bool) -> pa.Table:
    """Write rows of whole groups, each pair once, as one part of the store."""
    schema, key = KINDS[kind]
    rows = batch.filter(pc.is_valid(batch["run"]))
    if not all_wanted:
        wanted = batch.filter(pc.is_null(batch["run"]))[key]
        rows = rows.filter(pc.is_in(rows[key], value_set=wanted.combine_chunks()))
    rows = computed.newest(rows, ["group", "pair"] if key == "group" else ["key"])
    path = computed.write(folder, rows.select(schema.names), schema) if len(rows) else None
    return record_table([Written(path)])
