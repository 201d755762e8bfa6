"""What the inputs hold, before anything is read of them: a digest of every file's content, in pieces that tasks share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.engine.job import execute, items, mapped, once
from pipeline.engine.progress import Reporter
from pipeline.reading.chunks import Chunk
from pipeline.storage.files import DIGEST_BYTES, digest_of, list_files
from pipeline.storage.records import record_table, records_of
from pipeline.storage.urls import open_filesystem

PIECE_BYTES = 256 << 20
_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a file of an input; a saved dataset is an input of several files."""

    input: str
    uri: str
    start: int
    stop: int


@dataclass(frozen=True)
class HowRead:
    """How the rows of an input are looked for."""

    kind: str
    columns: dict[str, str] | None
    split: str


@dataclass(frozen=True)
class InputFile:
    """One input as the manifest names it; the digest of a dataset of the hub is its commit."""

    path: str
    source: str
    bytes: int
    digest: str
    read: HowRead


class DigestedPiece(NamedTuple):
    """A piece with the digest of its bytes, as they are where workers see them."""

    input: str
    uri: str
    start: int
    digest: str


def take_snapshot(reporter: Reporter, chunks: list[Chunk]) -> list[InputFile]:
    """What each input holds, as a digest of its content; in the order of the inputs."""
    pieces = once("snapshot", pieces_of, chunks)
    with reporter.stage("snapshot", len(pieces), "pieces") as stage:
        dataset = mapped(items(pieces), digest_piece)
        digested = execute("snapshot", DigestedPiece, dataset, lambda piece: stage.advance())
    return join_pieces(chunks, digested)


def pieces_of(chunks: list[Chunk]) -> list[Piece]:
    """Ranges of bytes of all files of the inputs, each file once. Runs where workers do: the driver may not see the files."""
    return [
        Piece(uri, path, start, min(start + PIECE_BYTES, size))
        for uri, chunk in {chunk.uri: chunk for chunk in chunks}.items()
        for path, size in _files_of(chunk)
        for start in range(0, max(1, size), PIECE_BYTES)
    ]


def _files_of(chunk: Chunk) -> Iterable[tuple[str, int]]:
    """(path, bytes) of the files of an input."""
    if chunk.kind == "hub":
        return []
    if chunk.kind == "saved":
        files = list_files(str(Path(chunk.uri).absolute()), deep=True)
        if not files:
            raise FileNotFoundError(f"{chunk.uri}: no file of this dataset is there any more")
        return files
    return [(chunk.uri, chunk.size)]


def digest_piece(batch: pa.Table) -> pa.Table:
    """Records with the digest of each piece."""
    return record_table(
        DigestedPiece(piece.input, piece.uri, piece.start, _digest(piece)) for piece in records_of(Piece, batch)
    )


def _digest(piece: Piece) -> str:
    filesystem, inner = open_filesystem(piece.uri)
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with filesystem.open_input_file(inner) as file:
        file.seek(piece.start)
        left = piece.stop - piece.start
        while left > 0 and (data := file.read(min(left, _READ_BYTES))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()


def join_pieces(chunks: list[Chunk], pieces: list[DigestedPiece]) -> list[InputFile]:
    """The inputs in order, each with the digest of its pieces' digests."""
    inputs: dict[tuple[int, int], InputFile] = {}
    by_input: dict[str, list[str]] = {}
    for name, _, _, digest in sorted(pieces):
        by_input.setdefault(name, []).append(digest)
    for chunk in chunks:
        digest = chunk.revision or digest_of(json.dumps(by_input.get(chunk.uri, [])).encode())
        read = HowRead(chunk.kind, chunk.columns, chunk.split)
        inputs[chunk.input_index, chunk.file_index] = InputFile(chunk.uri, chunk.source, chunk.size, digest, read)
    return [inputs[place] for place in sorted(inputs)]


def same_content(inputs: list[InputFile]) -> list[dict[str, object]]:
    """What of the inputs decides the rows that are read: all but their sizes, which digests imply."""
    return [{key: value for key, value in asdict(file).items() if key != "bytes"} for file in inputs]
