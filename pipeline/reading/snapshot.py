"""What the inputs hold, before anything is read of them: a digest of every file's content, in pieces that tasks share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.engine.job import execute, items, mapped
from pipeline.engine.progress import Reporter
from pipeline.reading.chunks import Chunk, open_dataset
from pipeline.storage.files import DIGEST_BYTES, digest_of, list_files
from pipeline.storage.parts import Record, record_table
from pipeline.storage.urls import open_filesystem

PIECE_BYTES = 256 << 20
_READ_BYTES = 4 << 20


def take_snapshot(reporter: Reporter, chunks: list[Chunk]) -> list[Record]:
    """What each input file holds, as a digest of its content; records in the order of the inputs."""
    pieces = pieces_of(chunks)
    with reporter.stage("snapshot", len(pieces), "pieces") as stage:
        found = execute("snapshot", mapped(items(pieces), digest_piece), lambda record: stage.advance())
    return join_pieces(chunks, found)


def pieces_of(chunks: list[Chunk]) -> list[dict[str, Any]]:
    """Ranges of bytes of all files of the inputs, each file once."""
    pieces: list[dict[str, Any]] = []
    for uri, chunk in {chunk.uri: chunk for chunk in chunks}.items():
        if chunk.kind == "saved":
            files = [(path, size) for path, size in list_files(str(Path(uri).absolute()), deep=True)]
        elif chunk.kind == "hub":
            continue
        else:
            files = [(uri, chunk.size)]
        for path, size in files:
            for start in range(0, max(1, size), PIECE_BYTES):
                pieces.append({"file": uri, "uri": path, "start": start, "stop": min(start + PIECE_BYTES, size)})
    return pieces


def digest_piece(batch: pa.Table) -> pa.Table:
    """Records with the digest of each piece."""
    records = []
    for piece in map(json.loads, batch["item"].to_pylist()):
        filesystem, inner = open_filesystem(piece["uri"])
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        with filesystem.open_input_file(inner) as file:
            file.seek(piece["start"])
            left = piece["stop"] - piece["start"]
            while left > 0 and (data := file.read(min(left, _READ_BYTES))):
                digest.update(data)
                left -= len(data)
        records.append({**piece, "digest": digest.hexdigest()})
    return record_table(records)


def join_pieces(chunks: list[Chunk], pieces: list[Record]) -> list[Record]:
    """One record an input file, in order: its path, source, bytes, digest, and how it is read."""
    found: dict[tuple[int, int], Record] = {}
    by_file: dict[str, list[Record]] = {}
    for piece in pieces:
        by_file.setdefault(piece["file"], []).append(piece)
    for chunk in chunks:
        own = sorted(by_file.get(chunk.uri, []), key=lambda piece: (piece["uri"], piece["start"]))
        if chunk.kind == "hub":
            digest = str(open_dataset(chunk)._fingerprint)
        else:
            digest = digest_of(json.dumps([piece["digest"] for piece in own]).encode())
        found[chunk.input_index, chunk.file_index] = {
            "path": chunk.uri,
            "source": chunk.source,
            "bytes": chunk.size,
            "digest": digest,
            "read": {"kind": chunk.kind, "columns": chunk.columns, "split": chunk.split},
        }
    return [found[place] for place in sorted(found)]
