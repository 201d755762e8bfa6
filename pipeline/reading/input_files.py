"""The inputs of a run as its manifest names them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.reading.data_folders import DataEntry
from pipeline.reading.delta import Value


@dataclass(frozen=True)
class HowRead:
    """How the rows of an input are looked for."""

    kind: str
    columns: dict[str, str] | None
    split: str
    entry: DataEntry | None = None
    turns: str = "last"
    partition: dict[str, Value] | None = None


@dataclass(frozen=True)
class InputFile:
    """One input as the manifest names it; the digest of a dataset of the hub is its commit."""

    path: str
    source: str
    bytes: int
    digest: str
    read: HowRead
