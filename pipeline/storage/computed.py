"""The store: every pair that a model was paid for, kept for resume and for every later run; embeddings and answers as well.

`likelihoods/<scorer fingerprint>/<run>/<block>/<round>/<digest>-<pairs>.parquet`. A pair is known by a digest of the token ids
that the model saw, its group is where rows ask for it: the hash of their (input, output), or of the output alone for l(0).
Writers never share a file and never change one. The name of a part says what its content must be, so one that was cut off or
changed is found whoever reads it, and there is no list of parts that could be wrong. It says inside to which scorer it belongs.
Columns are found by name: parts of an
older or a newer version that have these and others are read as well, and those that lack one are left for that version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import STORED, conform
from pipeline.errors import BadRequest
from pipeline.storage import files, urls
from pipeline.storage.parts import DamagedPart, to_parquet
from pipeline.storage.whole_file import open_whole

STORES = LIKELIHOODS, EMBEDDINGS, GENERATED = "likelihoods", "embeddings", "generated"
DAMAGED = ".damaged"
SCORER = "scorer.json"  # which scorer a folder of the store belongs to
NOTES = "damaged"  # folder of a work folder
_OWNER = "belongs_to"  # in the metadata of a part, so that one that was copied elsewhere is known there
_PART = re.compile(r"([0-9a-f]{32})-([0-9]+)\.parquet")


class OtherVersion(RuntimeError):
    """A part that is as it was written, by a version of this project whose parts lack a column."""


def scorer_folder(output: str, fingerprint: str) -> str:
    """Everything that one scorer has computed."""
    return urls.join(output, LIKELIHOODS, fingerprint)


def embedder_folder(output: str, fingerprint: str) -> str:
    """Everything that one embedder has computed."""
    return urls.join(output, EMBEDDINGS, fingerprint)


def generator_folder(output: str, fingerprint: str) -> str:
    """Everything that one generator has answered to one prompt."""
    return urls.join(output, GENERATED, fingerprint)


def describe(folder: str, model: str, dtype: str, template_hash: str, trial: Sequence[float] | None = None) -> None:
    """Leave a note of which scorer or generator a folder of the store belongs to: its name is a digest. Of a scorer behind a
    server, `trial` has log-probabilities of fixed tokens."""
    path = urls.join(folder, SCORER)
    if not files.exists(path):
        note = {"model": model, "dtype": dtype, "template_hash": template_hash}
        files.write(path, json.dumps(note if trial is None else {**note, "trial": list(trial)}).encode())


def noted_trial(folder: str) -> list[float] | None:
    """The log-probabilities that the note of a scorer behind a server has; None where there is no note yet. Raises BadRequest
    for a note that is none."""
    path = urls.join(folder, SCORER)
    try:
        return [float(number) for number in json.loads(files.read(path))["trial"]]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError) as error:
        raise BadRequest(
            f"{path}: is no note of a scorer behind a server; accepted: another output, or none of {folder}, whose "
            "likelihoods are then asked for anew"
        ) from error


def block_folder(scorer: str, run: str, block: int, part: str) -> str:
    """What a run has computed of one of its blocks in one round."""
    return urls.join(scorer, run, f"block-{block:06d}", part)


def write(folder: str, table: pa.Table, schema: pa.Schema = STORED) -> str:
    """Write one part; its path. Raises OSError where the disk is full."""
    data = to_parquet(conform(table, schema), {_OWNER: owner_of(folder)})
    path = urls.join(folder, f"{files.digest_of(memoryview(data))}-{len(table)}.parquet")
    files.write(path, data)
    return path


def read(path: str, schema: pa.Schema = STORED) -> pa.Table:
    """The columns of `schema` of one part; raises DamagedPart where its content is not what its name says or another scorer's
    or embedder's, OtherVersion where it has other columns, OSError where it cannot be read, which says nothing about its
    content."""
    table = pq.read_table(pa.BufferReader(checked(path)))
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise OtherVersion(f"{path}: has no column {', '.join(missing)}")
    return conform(table.select(schema.names), schema)


def checked(path: str) -> bytes:
    """The bytes of a part; raises DamagedPart, OSError."""
    named, data = _PART.fullmatch(urls.name_of(path)), files.read(path)
    if named is None or files.digest_of(data) != named[1]:
        raise DamagedPart(f"{path}: is damaged: {len(data):,} bytes, whose digest is not that of its name")
    owner = (pq.read_schema(pa.BufferReader(data)).metadata or {}).get(_OWNER.encode())
    if owner not in (None, owner_of(path).encode()):  # early releases left it out
        raise DamagedPart(f"{path}: belongs to {owner.decode(errors='replace')}, not to {owner_of(path)}")
    return data


def owner_of(path: str) -> str:
    """The fingerprint of the scorer or embedder whose folder of the store a path lies in."""
    names = path.split("/")
    kinds = [place for place, name in enumerate(names[:-1]) if name in (LIKELIHOODS, EMBEDDINGS, GENERATED)]
    return names[kinds[-1] + 1] if kinds else ""


def undamaged(paths: Iterable[str], work: str | None, schema: pa.Schema = STORED) -> Iterator[tuple[str, pa.Table]]:
    """Each part that is what was written, with its path. A damaged one is renamed, so that it is never met again, and noted in
    the work folder of the run; what it held is computed again, as is that of one that is gone, or of another version's, which
    stays as it is. Raises OSError."""
    for path in paths:
        try:
            yield path, read(path, schema)
        except (FileNotFoundError, OtherVersion):
            continue
        except DamagedPart:
            files.move(path, path + DAMAGED)
            if work is not None:
                files.write(urls.join(work, NOTES, urls.name_of(path)), path.encode())


def has_columns(path: str, schema: pa.Schema) -> bool:
    """Whether a part holds what this version reads, by its last bytes alone; one that does not say is damaged or gone, and
    `undamaged` deals with it."""
    try:
        with open_whole(path) as file:
            return set(schema.names) <= set(pq.read_schema(file).names)
    except (OSError, pa.ArrowException):
        return True


def damaged(work: str) -> list[str]:
    """The parts that a run has found damaged."""
    return sorted(files.read(note).decode() for note, _ in files.list_files(urls.join(work, NOTES)))


def parts(folder: str) -> list[tuple[str, int]]:
    """(path, bytes) of all parts below a folder."""
    return [(path, size) for path, size in files.list_files(folder, deep=True) if _PART.fullmatch(urls.name_of(path))]


def by_run(folder: str) -> list[tuple[str, str, int]]:
    """(run, path, bytes) of all parts of a scorer or embedder."""
    return [(path[len(folder) + 1 :].partition("/")[0], path, size) for path, size in parts(folder)]


def pairs_of(paths: Iterable[str]) -> int:
    """How many rows parts hold, by their names."""
    return sum(int(named[2]) for path in paths if (named := _PART.fullmatch(urls.name_of(path))))


def count_run(output: str, run: str) -> tuple[int, int]:
    """(parts, pairs) that a run has stored so far."""
    folder = urls.join(output, LIKELIHOODS)
    paths = [path for scorer in files.list_folders(folder) for path, _ in parts(urls.join(folder, scorer, run))]
    return len(paths), pairs_of(paths)


def count_answers(output: str, run: str) -> int:
    """How many inputs a run has stored answers to so far."""
    folder = urls.join(output, GENERATED)
    return sum(rows_of_run(urls.join(folder, generator), run) for generator in files.list_folders(folder))


def rows_of_run(folder: str, run: str) -> int:
    """How many rows a run has stored so far in the folder of a scorer, embedder or generator."""
    return pairs_of(path for path, _ in parts(urls.join(folder, run)))


def newest(stored: pa.Table, keys: Sequence[str] = ("group", "pair")) -> pa.Table:
    """Rows of the store with their `run`, each key once: as the newest run has it, if it was computed anew. What one run has
    stored twice, as l(0) of an output that stands in two blocks, may differ in last digits: the choice depends on no order."""
    ties = [("sum", "ascending")] if "sum" in stored.column_names else []
    ordered = stored.sort_by([*((key, "ascending") for key in keys), ("run", "descending"), *ties])
    words = np.hstack([_words(ordered[key]) for key in keys])
    first = np.r_[True, (words[1:] != words[:-1]).any(axis=1)][: len(ordered)]
    return ordered.filter(pa.array(first))


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Digests as uint64 [N, 2]."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint64).reshape(-1, 2)
