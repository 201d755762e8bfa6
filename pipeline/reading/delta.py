"""Delta tables: the Parquet files that hold a table's rows now. Others lie beside them that hold rows which are gone."""

from __future__ import annotations

import pyarrow.fs as pafs

from operators.error_text import first_line
from pipeline.storage.urls import open_filesystem

PREFIX = "delta://"
LOG = "_delta_log"
# What a table may ask of its readers and plain Parquet readers do. Others, such as vectors of deleted rows or columns under
# other names in the files, would give other rows than the table has.
_READ_ALIKE = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


def is_delta(path: str) -> bool:
    """Whether a path names a Delta table: by its prefix, or a folder by its log."""
    if path.startswith(PREFIX):
        return True
    filesystem, inner = open_filesystem(path)
    return bool(filesystem.get_file_info(f"{inner.rstrip('/')}/{LOG}").type == pafs.FileType.Directory)


def files_of_table(path: str) -> list[str]:
    """The Parquet files of a table's current version, sorted; raises ValueError where they alone would not give its rows."""
    place = path.removeprefix(PREFIX)
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise ValueError(
            "it is a Delta table, and deltalake is not installed: pip install 'task-specificity[delta]'"
        ) from error
    if "://" not in place:
        place = open_filesystem(place)[1]
    try:
        table = DeltaTable(place)
        protocol, metadata = table.protocol(), table.metadata()
        files = sorted(table.file_uris())
    except (DeltaError, OSError) as error:
        raise ValueError(f"it cannot be read as a Delta table: {first_line(error)}") from error
    advice = "accepted: a table without, or the same rows as Parquet"
    asked = set(protocol.reader_features or ()) - _READ_ALIKE
    if asked or protocol.min_reader_version == 2:
        raise ValueError(f"it is a Delta table with {', '.join(sorted(asked)) or 'columnMapping'}; {advice}")
    if metadata.partition_columns:
        raise ValueError(
            f"it is a Delta table that is partitioned by {', '.join(metadata.partition_columns)}; {advice}"
        )
    return files
