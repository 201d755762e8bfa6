"""Whether something is on a model hub, asked once and answered in words instead of minutes of retries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from operators.text import first_line

SECONDS = 10.0


def looks_local(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written as a path and so is never asked of a hub."""
    return Path(name).exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def why_not_on_hub(name: str, kind: str = "model") -> str | None:
    """None where the hub, or its local cache, has the model or dataset `name`; otherwise the reason in one line."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if kind == "model" and isinstance(try_to_load_from_cache(name, "config.json"), str):
        return None
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
    except Exception as error:  # noqa: BLE001 - the hub's client changes its HTTP library, and so its errors, by release
        return first_line(error)
    return None


def revision(name: str) -> str:
    """The commit of a model of the hub: of the copy in the local cache, or else what the hub says now; raises OSError."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    for file in ("config.json", "modules.json"):
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return Path(cached).parent.name  # .../snapshots/<commit>/<file>
    try:
        return str(HfApi().model_info(name, timeout=SECONDS).sha)
    except Exception as error:
        raise OSError(f"{name}: the hub does not tell its revision: {error}") from error


def files_digest(folder: Path, *patterns: str) -> str:
    """128-bit hex digest of the files of a model folder that match, not of its name: the same model elsewhere is the same."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(hashlib.blake2b(chunk, digest_size=16).digest())
    return digest.hexdigest()
