"""Writes that happen only where nothing has changed: the first to create a file, and the replacement of what was looked at.

Arrow's file systems have no such writes. An object store takes them over obstore (`If-None-Match`, `If-Match`; a generation on
Google Cloud Storage). On a disk only creation is exclusive (O_EXCL, also on NFS from version 3); a rename replaces whatever is
there.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.storage.urls import open_filesystem

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ANSWER_WITHIN = "30s"
_TRY_FOR = datetime.timedelta(seconds=60)


class NotConditional(Exception):
    """A store that takes no conditional writes, or whose credentials only Arrow finds; the message says why."""


@dataclass(frozen=True)
class Seen:
    """A file as it was looked at: its content, None where there was none, and what a store calls this version of it."""

    data: bytes | None
    version: dict[str, str | None] | None = None


def create_file(path: str, data: bytes) -> bool:
    """Create a small file of a disk; False where it is there already, whoever made it and whatever is in it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(handle, data)  # a page at most: in one write
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def look(url: str) -> Seen:
    """An object and its version; raises NotConditional, OSError."""
    import obstore

    with _store(url) as (store, key):
        try:
            got = obstore.get(store, key)
        except FileNotFoundError:
            return Seen(None)
        version = {name: got.meta[name] for name in ("e_tag", "version") if got.meta.get(name)}
        return Seen(bytes(got.bytes()), version)


def replace_object(url: str, seen: Seen, data: bytes) -> bool:
    """Write an object where it is still what was `seen`, or still missing; False where it is not. Raises NotConditional,
    OSError.

    A request whose answer was lost is sent again and then meets what it has itself written: that is no conflict.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    mode: Any = seen.version if seen.data is not None else "create"
    with _store(url) as (store, key):
        try:
            obstore.put(store, key, data, mode=mode)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                return bytes(obstore.get(store, key).bytes()) == data
            return False
        return True


@contextlib.contextmanager
def _store(url: str) -> Iterator[tuple[ObjectStore, str]]:
    """The bucket of a URL and the key in it, reached as Arrow reaches it; errors of obstore as those of Arrow."""
    from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import from_url

    scheme, _, inner = url.partition("://")
    bucket, _, key = inner.partition("/")
    try:
        yield from_url(f"{scheme.replace('gcs', 'gs')}://{bucket}", **_options(url, scheme)), key
    except (NotSupportedError, PermissionDeniedError, UnauthenticatedError) as error:
        raise NotConditional(_reason(error)) from error
    except BaseError as error:
        if "501 Not Implemented" in str(error):
            raise NotConditional(_reason(error)) from error
        raise OSError(_reason(error)) from error


def _options(url: str, scheme: str) -> dict[str, Any]:
    client: dict[str, Any] = {"timeout": _ANSWER_WITHIN, "connect_timeout": _ANSWER_WITHIN}
    options: dict[str, Any] = {"client_options": client, "retry_config": {"retry_timeout": _TRY_FOR}}
    if scheme == "s3":
        options["region"] = open_filesystem(url)[0].region
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            options["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
    return options


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
