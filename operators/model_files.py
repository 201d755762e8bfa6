"""What a model's name means, on a hub or as a folder: asked once, in words instead of minutes of retries, and held to."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from operators.error_text import first_line

SECONDS = 10.0
SAFETENSORS = {"model.safetensors", "model.safetensors.index.json"}
MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors")
_TELLING = ("config.json", "modules.json")  # each model has one of them
_STRETCHES, _STRETCH = 64, 1 << 12  # of a file, bytes of each


def looks_local(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written as a path and so is never asked of a hub."""
    return Path(name).exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def why_not_on_hub(name: str, kind: str = "model", revision: str | None = None) -> str | None:
    """None where the hub, or its local cache, has the model or dataset `name`; otherwise the reason in one line."""
    from huggingface_hub import HfApi

    if kind == "model" and _cached(name, revision) is not None:
        return None
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except Exception as error:  # noqa: BLE001 - the hub's client changes its HTTP library, and so its errors, by release
        return first_line(error)
    return None


def version_of(name: str) -> str:
    """What a model's name means now: on the hub the commit, or that of the local cache where the hub does not answer; for a
    folder a digest of stretches of its files. Raises OSError."""
    return _stretches(Path(name)) if looks_local(name) else _commit(name)


def revision_of(name: str, version: str | None) -> str | None:
    """The revision by which a loader takes `version` of a model, which is what `version_of` gave on this or another machine, or
    None for whatever there is. Raises OSError where this machine's folder of that name holds something else."""
    if version is None or not looks_local(name):
        return version
    if not Path(name).is_dir() or _stretches(Path(name)) != version:
        raise OSError(
            f"the folder is not the one that the run began with, on {platform.node()}; accepted: the same files on all "
            "machines, unchanged until the run has ended"
        )
    return None


def _commit(name: str) -> str:
    from huggingface_hub import hf_hub_download

    problem = ""
    for file in _TELLING:
        try:
            # Asks the hub first, and keeps the answer for a time without one.
            path = hf_hub_download(name, file, etag_timeout=SECONDS)
        except Exception as error:  # noqa: BLE001 - as above
            problem = problem or first_line(error)
        else:
            return Path(path).parent.name  # .../snapshots/<commit>/<file>
    raise OSError(problem)


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a model in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(name, file, revision=revision) for file in _TELLING)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def files_of(name: str, version: str) -> set[str]:
    """Paths of a model's files: in its folder, on the hub, or in the local cache where that does not answer; raises OSError."""
    if looks_local(name):
        return _files(Path(name))
    from huggingface_hub import HfApi

    try:
        return {one.rfilename for one in HfApi().model_info(name, revision=version, timeout=SECONDS).siblings or []}
    except Exception as error:
        folder = _cached(name, version)
        if folder is None:
            raise OSError(first_line(error)) from error
        return _files(folder)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_file(name: str, version: str, file: str) -> str:
    """The text of a model's file; raises OSError, ValueError."""
    if looks_local(name):
        return (Path(name) / file).read_text(encoding="utf-8")
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name, file, revision=version, etag_timeout=SECONDS)
    except Exception as error:
        raise OSError(f"{file}: {first_line(error)}") from error
    return Path(path).read_text(encoding="utf-8")


def _stretches(folder: Path) -> str:
    """128-bit hex digest of names, sizes and stretches of a model's files: to read a large model whole takes minutes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in MODEL_FILES for path in folder.rglob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode("utf-8", "surrogateescape"))
        step = max(_STRETCH, size // _STRETCHES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_STRETCH))
    return digest.hexdigest()


def files_digest(folder: Path, *patterns: str) -> str:
    """128-bit hex digest of the files of a model folder that match, not of its name: the same model elsewhere is the same."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in patterns for path in folder.rglob(pattern)}):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(hashlib.blake2b(chunk, digest_size=16).digest())
    return digest.hexdigest()


def hub_version(name: str, kind: str) -> str:
    """The commit of a model or dataset of the hub; raises OSError with the reason in one line."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().repo_info(name, repo_type=kind, timeout=SECONDS).sha)
    except Exception as error:
        raise OSError(first_line(error)) from error
