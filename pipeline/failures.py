"""The traceback of a command that failed, kept in a log beside what the command writes, without secrets."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import tempfile
import traceback
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from pipeline.errors import printable
from pipeline.storage import files, urls

FOLDER = "failures"
_SECRET_NAME = re.compile(r"key|secret|token|passw|credential", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters: what is shorter says yes, no, or how many


def is_of_storage(error: BaseException) -> bool:
    """Whether a disk or an object store is the cause. Arrow's other errors say that something was wrong with data or code."""
    return isinstance(error, OSError) or type(error) is pa.ArrowException


def traceback_of(error: BaseException) -> str:
    """The whole traceback of an exception, its causes included, those of Ray's workers too; without secrets, and without what a
    terminal would obey."""
    return printable(_without_secrets("".join(traceback.format_exception(error))))


def keep_log(error: BaseException, command: str, output: str | None) -> str:
    """Write the traceback of a failed command into its output (a folder or URL), or into a temporary file of this machine where
    there is none or it cannot be written; the path of the log, or words where no file can be written at all."""
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%dT%H%M%S.%fZ}-{command}.log"
    data = f"{now:%Y-%m-%d %H:%M:%S} UTC, tss {command}\n{traceback_of(error)}".encode()
    # The output may be out of reach, full, or no place for files at all.
    with contextlib.suppress(OSError, RuntimeError, ValueError, pa.ArrowException):
        if output is not None:
            return _write(output if urls.is_url(output) else str(Path(output).expanduser().absolute()), name, data)
    try:
        return _write(tempfile.mkdtemp(prefix="tss-"), name, data)
    except OSError as full:
        return f"no file, as none can be written ({full}); --debug shows it"


def _write(folder: str, name: str, data: bytes) -> str:
    path = urls.join(folder, FOLDER, name)
    files.write(path, data)
    return path


def _without_secrets(text: str) -> str:
    """A text without values of the environment that are named as secrets, and without users and options in URLs."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>").replace(quote(value, safe=""), f"<{name}>")
    text = re.sub(r"(\w://)[^\s/@'\"]+@", r"\1<user>@", text)
    return re.sub(r"(\w://[^\s?'\"]+\?)[^\s'\"]+", r"\1<options>", text)
