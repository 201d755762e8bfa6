"""What the inputs hold, before anything is read of them: a digest of every file's content, in pieces that tasks share."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.engine.job import execute, mapped, once, packed
from pipeline.engine.progress import Reporter
from pipeline.errors import RunFailed
from pipeline.reading.chunks import FOLDERS, Chunk, require_unchanged
from pipeline.reading.input_files import HowRead, InputFile
from pipeline.storage.files import DIGEST_BYTES, digest_of, list_files
from pipeline.storage.records import record_table, records_of
from pipeline.storage.urls import is_url
from pipeline.storage.whole_file import open_whole

PIECE_BYTES = 256 << 20
_READ_BYTES = 4 << 20
_TICK_SECONDS = 0.05  # of a file system's clock, at most; a few milliseconds on most


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a file of an input; a saved dataset is an input of several files, and so is one of Lance."""

    of: Chunk
    uri: str
    start: int
    stop: int


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
        dataset = mapped(packed(pieces, lambda piece: piece.stop - piece.start, PIECE_BYTES), digest_piece)
        digested = execute("snapshot", DigestedPiece, dataset, lambda piece: stage.advance())
    return join_pieces(chunks, digested)


def pieces_of(chunks: list[Chunk]) -> list[Piece]:
    """Ranges of bytes of all files of the inputs, each file once. Runs where workers do: the driver may not see the files."""
    return [
        Piece(chunk, path, start, min(start + PIECE_BYTES, size))
        for chunk in {chunk.uri: chunk for chunk in chunks}.values()
        for path, size in _files_of(chunk)
        for start in range(0, max(1, size), PIECE_BYTES)
    ]


def _files_of(chunk: Chunk) -> Iterable[tuple[str, int]]:
    """(path, bytes) of the files of an input."""
    if chunk.kind == "hub":
        return []
    if chunk.kind in FOLDERS:
        files = list_files(str(Path(chunk.uri).absolute()), deep=True)
        if not files:
            raise FileNotFoundError(f"{chunk.uri}: no file of this dataset is there any more")
        return files
    return [(chunk.uri, chunk.size)]


def digest_piece(batch: pa.Table) -> pa.Table:
    """Records with the digest of each piece."""
    return record_table(
        DigestedPiece(piece.of.uri, piece.uri, piece.start, _digest(piece)) for piece in records_of(Piece, batch)
    )


def _digest(piece: Piece) -> str:
    """The digest of what the file held when the inputs were listed; raises ChangedInput where it was written since."""
    if not is_url(piece.uri):
        # A write within the same tick of the file system's clock could not be told from the one before it.
        recent = _TICK_SECONDS - abs(time.time() - Path(piece.uri).stat().st_ctime)
        time.sleep(max(0.0, recent))
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open_whole(piece.uri) as file:
        file.seek(piece.start)
        left = piece.stop - piece.start
        while left > 0 and (data := file.read(min(left, _READ_BYTES))):
            digest.update(data)
            left -= len(data)
    require_unchanged(piece.of)
    return digest.hexdigest()


def require_same_content(reporter: Reporter, chunks: list[Chunk], inputs: list[InputFile]) -> None:
    """Raise RunFailed where an object of a store is not any more what the snapshot took it for: stores tell the time of a write
    to the second, and no more is known of them."""
    remote = [chunk for chunk in chunks if is_url(chunk.uri) and chunk.kind != "hub"]
    if not remote:
        return
    before = {file.path: file.digest for file in inputs}
    for file in take_snapshot(reporter, remote):
        if before[file.path] != file.digest:
            raise RunFailed("read", f"{file.path} has changed while it was read; run again when nothing writes to it")


def join_pieces(chunks: list[Chunk], pieces: list[DigestedPiece]) -> list[InputFile]:
    """The inputs in order, each with the digest of its pieces' digests."""
    inputs: dict[tuple[int, int], InputFile] = {}
    by_input: dict[str, list[str]] = {}
    for name, _, _, digest in sorted(pieces):
        by_input.setdefault(name, []).append(digest)
    for chunk in chunks:
        content = json.dumps(by_input.get(chunk.uri, []))
        digest = chunk.revision if chunk.kind == "hub" and chunk.revision else digest_of(content.encode())
        read = HowRead(chunk.kind, chunk.columns, chunk.split, chunk.entry, chunk.turns, chunk.partition)
        inputs[chunk.input_index, chunk.file_index] = InputFile(chunk.uri, chunk.source, chunk.size, digest, read)
    return [inputs[place] for place in sorted(inputs)]


def same_content(inputs: list[InputFile]) -> list[dict[str, object]]:
    """What of the inputs decides the rows that are read: all but their sizes, which digests imply."""
    return [{key: value for key, value in asdict(file).items() if key != "bytes"} for file in inputs]
