"""Which files can be read, told by their names; `readers.py` has the reader of each kind."""

from __future__ import annotations

from pathlib import Path

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
ACCEPTED = (
    ".jsonl .ndjson .json .csv .tsv .parquet .arrow, of text also .gz .zst .bz2 .xz, a dataset saved by datasets, or a "
    "table of Delta, Iceberg or Lance"
)


def kind_of(uri: str) -> tuple[str, str | None] | None:
    """(kind, compression) of a file; None where it cannot be read."""
    path = Path(uri)
    compression = COMPRESSIONS.get(path.suffix.lower())
    kind = KINDS.get(Path(path.stem).suffix.lower() if compression else path.suffix.lower())
    return (kind, compression) if kind and not (compression and kind in ("parquet", "arrow")) else None


def stem_of(uri: str) -> str:
    """The name of a file without the suffixes of its kind."""
    path = Path(uri)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem
