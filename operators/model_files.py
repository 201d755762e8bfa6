"""What a model's name means, on a hub or as a folder: asked once, in words instead of minutes of retries, and held to.

Whatever the name, a model is loaded from a folder: its own, or the local cache's of one commit of the hub.
"""

from __future__ import annotations

import hashlib
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from operators.error_text import first_line, one_line
from operators.safetensors_header import Shapes, read_index, read_shapes

SECONDS = 10.0  # that the hub may take for an answer
SAFETENSORS = {"model.safetensors", "model.safetensors.index.json"}
NO_SAFETENSORS = (
    ".safetensors weights; pickled weights are not loaded (pytorch_model.bin, as it may run code); load the model "
    "where you trust it, save it again with save_pretrained, and name that folder"
)
BUT_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")
MODEL_FILES = (*BUT_WEIGHTS, "*.safetensors")
_VOCABULARY = "*.tiktoken"  # of tokenizers whose code comes with the model
_WEIGHTS_AGAIN = "consolidated*.safetensors"  # for another library than transformers
_TELLING = ("config.json", "modules.json")  # each model has one of them
_STRETCHES, _STRETCH = 64, 1 << 12  # of a file, bytes of each
_AT_ONCE = 8  # headers that the hub is asked for


class ModelProblem(ValueError):
    """A model or tokenizer that cannot be used, in words for the person who named it."""


def looks_local(name: str) -> bool:
    """Whether a name means a folder: it exists, or it is written as a path and so is never asked of a hub."""
    return Path(name).exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def both_readings(name: str) -> str:
    """What a name that is no folder here may mean, for a message that the hub could not give it."""
    if name.count("/") > 1:
        return f"there is no folder {str(Path(name).expanduser().absolute())!r}"
    place = str(Path(name).absolute())
    return f"read as a folder, there is none at {place!r}; read as a name of the hub, the hub did not give it"


def require_folder(name: str) -> None:
    """Raise ModelProblem where the name of a scorer means a folder that is none in transformers format."""
    folder = Path(name)
    if not looks_local(name):
        return
    if not folder.is_dir():
        raise ModelProblem(
            f"scorer.model: {name!r}: no such folder; accepted: a folder in transformers format or a hub name (owner/name)"
        )
    if not (folder / "config.json").is_file():
        raise ModelProblem(
            f"scorer.model: {name!r}: the folder has no config.json; accepted: a folder in transformers format"
        )


def require_safetensors(name: str) -> None:
    """Raise ModelProblem where a folder holds no weights that would be loaded."""
    if looks_local(name) and not any(Path(name).rglob("*.safetensors")):
        raise ModelProblem(f"scorer.model: {name!r}: the folder has no {NO_SAFETENSORS}")


def problem_of(name: str, what: str, error: Exception) -> ModelProblem:
    """What to raise where something of a scorer could not be loaded."""
    if "trust_remote_code" in str(error):
        hint = "its code comes with the model: set scorer.trust_remote_code to true only if you trust its author"
    elif looks_local(name):
        hint = "is the folder complete? accepted: all files of a model, as save_pretrained writes them"
    else:
        hint = (
            f"{both_readings(name)}: is the name right and the hub reachable? Offline, set scorer.model to a local "
            "folder; for a private or gated model, put a token of the hub into HF_TOKEN"
        )
    return ModelProblem(f"scorer.model: {name!r}: {what} could not be loaded ({first_line(error)}); {hint}")


def version_of(name: str) -> str:
    """What a model's name means now: on the hub the commit; for a folder a digest of stretches of its files. Raises OSError."""
    return _stretches(Path(name)) if looks_local(name) else hub_version(name)


def hub_version(name: str, kind: str = "model", revision: str | None = None) -> str:
    """The commit that a "model" or "dataset" of the hub has at a revision (default: its main branch); of a model that of the
    local cache where the hub does not answer. Raises OSError with the reason in one line."""
    return _commit_and_files(name, kind, revision)[0]


def files_of(name: str, version: str) -> set[str]:
    """Paths of a model's files: in its folder, on the hub, or in the local cache where that does not answer; raises OSError."""
    return _files(Path(name)) if looks_local(name) else _commit_and_files(name, "model", version)[1]


def at_hand(name: str) -> bool:
    """Whether a model is a folder of this machine, or the local cache has files of its weights in the version that the hub
    names now: nothing of it would have to be downloaded but what is small."""
    if looks_local(name):
        return Path(name).is_dir()
    try:
        folder = _cached(name, hub_version(name))
    except OSError:
        return False
    return folder is not None and any(folder.glob("*.safetensors"))


def folder_of(name: str, version: str | None, patterns: tuple[str, ...] = MODEL_FILES) -> Path:
    """The local folder with the files of a model that match. `version` is what `version_of` gave on this or another machine;
    None takes whatever there is.

    Raises OSError where this machine's folder of that name holds something else, or where the hub cannot give the files and
    the local cache has none of that version.
    """
    if looks_local(name):
        if version is not None and (not Path(name).is_dir() or _stretches(Path(name)) != version):
            raise OSError(
                f"the folder is not the one that the run began with, on {platform.node()}; accepted: the same files on all "
                "machines, unchanged until the run has ended"
            )
        return Path(name)
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=version,
                allow_patterns=[*patterns, _VOCABULARY],
                ignore_patterns=[_WEIGHTS_AGAIN],
                etag_timeout=SECONDS,
            )
        )
    except Exception as error:
        folder = _cached(name, version)  # with what is needed, perhaps, though not with all that matches
        if folder is None:
            raise OSError(one_line(error)) from error
        return folder


def weight_shapes(name: str, version: str, files: set[str], weights: str) -> Shapes:
    """Names and shapes of all tensors of a model that has these `files`, of which `weights` is a safetensors file or an index.

    The other files of a model of the hub must be in the local cache; no weights are downloaded. Raises OSError where a file is
    missing, cut off or none, and where the hub does not answer.
    """
    folder = Path(name) if looks_local(name) else _cached(name, version)
    if folder is None:
        raise OSError("the local cache has not the model's configuration")
    shards = read_index(folder / weights) if weights.endswith(".json") else [weights]
    missing = [shard for shard in shards if shard not in files]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OSError(f"{weights} names {missing[0]}{others}, and the model has no such file")
    here = all((folder / shard).is_file() for shard in shards)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        headers = pool.map(
            lambda shard: read_shapes(folder / shard) if here else _hub_shapes(name, version, shard), shards
        )
        return {tensor: shape for shapes in headers for tensor, shape in shapes.items()}


def _hub_shapes(name: str, version: str, file: str) -> Shapes:
    from huggingface_hub import HfApi

    try:
        header = HfApi().parse_safetensors_file_metadata(name, file, revision=version)
    except Exception as error:  # as in _commit_and_files
        raise OSError(f"{file}: {one_line(error)}") from error
    return {tensor: tuple(facts.shape) for tensor, facts in header.tensors.items()}


def _commit_and_files(name: str, kind: str, revision: str | None) -> tuple[str, set[str]]:
    """The commit and the paths of its files, of the hub or for a model of the local cache; raises OSError."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except Exception as error:  # the hub's client changes its HTTP library, and so its errors, by release
        folder = _cached(name, revision) if kind == "model" else None
        if folder is None:
            raise OSError(one_line(error)) from error
        return folder.name, _files(folder)  # .../snapshots/<commit>
    return str(info.sha), {sibling.rfilename for sibling in getattr(info, "siblings", None) or []}


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a model in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(name, file, revision=revision) for file in _TELLING)
    return next((Path(path).parent for path in paths if isinstance(path, str)), None)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


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
