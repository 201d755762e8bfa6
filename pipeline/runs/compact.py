"""Parts of the store written anew: in fewer and larger ones, each row once, or only rows that are still wanted.

A pass reads parts, brings the rows of a group together and writes them; only when all new parts are there do the old ones go. A
pass that dies leaves pairs twice, never none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import EMBEDDINGS, STORED, conform
from operators.hashing import content_hash
from pipeline.runs import workspace
from pipeline.storage import computed, files, urls
from pipeline.errors import RunFailed
from pipeline.engine.job import execute, mapped, over_parts
from pipeline.storage.parts import Record, read_part, record_table
from pipeline.engine.progress import Reporter

BYTES_PER_PART = 64 << 20
KINDS = {computed.LIKELIHOODS: (STORED, "group"), computed.EMBEDDINGS: (EMBEDDINGS, "key")}


def rewrite(
    reporter: Reporter, kind: str, folder: str, old: list[tuple[str, str, int]], wanted: list[Record] | None = None
) -> None:
    """Write parts, (run, path, bytes), anew, each of their rows once; with `wanted`, SCORED parts, pairs of the groups of their
    rows alone. Raises RunFailed, with all old parts still there, unless each of them was read and each new one is there."""
    _, key = KINDS[kind]
    old = _of_this_version(kind, old)
    size = sum(one[2] for one in old)
    # A name of its own: what is written must never bear that of a part that goes.
    target = urls.join(folder, f"{workspace.new_run_id()}-compacted")
    sources = [{"path": path, "run": run, "kind": kind} for run, path, _ in old] + [
        {**part, "kind": kind} for part in wanted or []
    ]
    shuffles = max(1, -(-size // BYTES_PER_PART))
    if old:
        with reporter.stage("compact", shuffles) as stage:
            dataset = over_parts(sources, rows_and_wanted).repartition(shuffles, keys=[key])
            options = {"folder": target, "kind": kind, "all_wanted": wanted is None}
            new = execute(
                "compact", mapped(dataset, write_compacted, fn_kwargs=options), lambda record: stage.advance()
            )
        for record in new:
            if record["path"] is not None and not files.exists(record["path"]):
                raise RunFailed("compact", f"a worker has written {record['path']}, and it is not there")
    for _, path, _ in old:
        files.delete(path)
    files.delete_empty_below(folder)


def _of_this_version(kind: str, parts: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Those of the parts, (run, path, bytes), whose rows can be written anew: what another version wrote is left to it."""
    items = [{"path": path, "kind": kind} for _, path, _ in parts]
    known = execute("compact", over_parts(items, with_columns)) if items else []
    readable = {record["path"] for record in known}
    return [one for one in parts if one[1] in readable]


def with_columns(batch: pa.Table) -> pa.Table:
    """Records of the parts that have the columns of this version."""
    items = map(json.loads, batch["item"].to_pylist())
    return record_table(
        {"path": item["path"]} for item in items if computed.has_columns(item["path"], KINDS[item["kind"]][0])
    )


def _schema(kind: str) -> pa.Schema:
    """Rows of the store with the run that wrote them; a row without a run says that its group is wanted."""
    return pa.schema([*KINDS[kind][0], pa.field("run", pa.string())])


def rows_and_wanted(batch: pa.Table) -> Iterable[pa.Table]:
    """Rows of parts of the store with their run, and the groups of rows of SCORED parts without one."""
    for item in map(json.loads, batch["item"].to_pylist()):
        schema, _ = KINDS[item["kind"]]
        if "run" in item:
            if not files.exists(item["path"]):  # `sound` would pass it over, and then it would be removed
                raise FileNotFoundError(f"{item['path']}: is gone, or this machine does not see it")
            for _, table in computed.sound([item["path"]], None, schema):
                yield conform(table.append_column("run", pa.array([item["run"]] * len(table))), _schema(item["kind"]))
        else:
            rows = read_part(item, ["input", "output"]).to_pylist()
            groups = {content_hash(row["input"], row["output"]) for row in rows}
            groups |= {content_hash(row["output"]) for row in rows}
            columns = {
                name: pa.nulls(len(groups), field.type) for name, field in zip(schema.names, schema, strict=True)
            }
            columns |= {"group": pa.array(sorted(groups), pa.binary(16)), "run": pa.nulls(len(groups), pa.string())}
            yield conform(pa.table(columns), _schema(item["kind"]))


def write_compacted(batch: pa.Table, *, folder: str, kind: str, all_wanted: bool) -> pa.Table:
    """Write rows of whole groups, each pair once, as one part of the store."""
    schema, key = KINDS[kind]
    rows = batch.filter(pc.is_valid(batch["run"]))
    if not all_wanted:
        wanted = batch.filter(pc.is_null(batch["run"]))[key]
        rows = rows.filter(pc.is_in(rows[key], value_set=wanted.combine_chunks()))
    rows = computed.newest(rows, ["group", "pair"] if key == "group" else ["key"])
    if not len(rows):
        return record_table([{"path": None}])
    return record_table([{"path": computed.write(folder, rows.select(schema.names), schema)}])
