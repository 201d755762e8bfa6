"""Places of files: absolute paths of a disk, or URLs of an object store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

# Of outputs: stores in which an object appears when its upload is complete. Arrow writes to Azure over what was there, and a
# file of HDFS is seen while it is written, so neither could switch from one run to the next at once.
SCHEMES = ("s3", "gs", "gcs")
_SECRET_OPTION = re.compile(
    r"[?&#;]([^=&]*(key|secret|token|passw|pwd|credential|signature|auth)[^=&]*|sig|sas|code)=", re.IGNORECASE
)


def is_url(uri: str) -> bool:
    """Whether files there are objects of a store, which cannot be renamed, rather than files of a disk."""
    return "://" in uri


def has_credentials(text: str) -> bool:
    """Whether a URL in a text names a user, a password or a key, which would end up in logs and manifests; percent-encoded ones
    are no less secret."""
    decoded = unquote(text)
    ways = {text, decoded, unquote(decoded)}
    return any(_names_somebody(rest) for way in ways for rest in way.split("://")[1:])


def _names_somebody(rest: str) -> bool:
    """Of what follows `://`. A key may hold a slash that should have been escaped: then no port stands behind its colon."""
    authority, _, path = rest.partition("/")
    _, colon, port = authority.rpartition(":")
    named = "@" in authority or (bool(colon) and ("@" in path or not port.isdecimal()))
    return named or bool(_SECRET_OPTION.search(rest))


def open_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URL and the path in it."""
    if uri.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        return pafs.PyFileSystem(pafs.FSSpecHandler(HfFileSystem())), uri.removeprefix("hf://")
    if is_url(uri):
        filesystem, inner = pafs.FileSystem.from_uri(uri)
        return filesystem, inner
    return pafs.LocalFileSystem(), str(Path(uri).expanduser().absolute())


def join(base: str, *names: str) -> str:
    """A file or folder below `base`."""
    return "/".join([base.rstrip("/"), *names])


def name_of(uri: str) -> str:
    """The last part of a path or URL."""
    return uri.rstrip("/").rpartition("/")[2]


def parent_of(uri: str) -> str:
    """The folder that holds a file or folder."""
    return uri.rstrip("/").rpartition("/")[0]
