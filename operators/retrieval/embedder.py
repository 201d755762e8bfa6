"""Instruction embeddings, L2-normalised: sentence-transformers, or a lexical one that needs no model at all."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from operators.error_text import first_line
from operators.hashing import DIGEST_BYTES, fold_space
from operators.model_files import (
    BUT_WEIGHTS,
    SAFETENSORS,
    both_readings,
    files_digest,
    files_of,
    folder_of,
    looks_local,
    version_of,
)

LEXICAL = "lexical"
_OWN_MODULES = "sentence_transformers."  # how the names of its classes begin
_FEATURES, _DIMENSIONS = 1 << 16, 512
_PICKLED = {"pytorch_model.bin", "pytorch_model.bin.index.json"}
_VERSION = 1  # of what this file does to a text and its vector; stored embeddings of another one are not used


class EmbedderProblem(ValueError):
    """An embedder that cannot be loaded, in words for the person who named it."""


class Embedder(Protocol):
    """What both embedders are."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """Float32 [N, D] with rows of length 1 (or 0 for a text without any feature)."""


@lru_cache(maxsize=1)
def _lexical_parts() -> tuple[Any, Any]:
    """The vectorizer of n-grams and the projection, drawn once in a process."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.random_projection import SparseRandomProjection

    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=_FEATURES, dtype=np.float32)
    # The projection depends on the shape and the seed alone, so fitting needs no data.
    return vectorizer, SparseRandomProjection(_DIMENSIONS, random_state=0).fit(vectorizer.transform([""]))


class LexicalEmbedder:
    """Hashed character n-grams (3 to 5, within words) under a fixed sparse random projection.

    Similar wording gives similar vectors; it knows nothing of meaning. For machines without a GPU or a model hub.
    """

    def __init__(self) -> None:
        self._vectorizer, self._projection = _lexical_parts()

    def embed(self, texts: list[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        vectors = np.asarray(self._projection.transform(self._vectorizer.transform(texts)).todense(), dtype=np.float32)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


class SentenceEmbedder:
    """Any sentence-transformers model with safetensors weights: a hub name or a folder, whose code is not run."""

    def __init__(self, model: str, batch_size: int, version: str | None = None):
        from sentence_transformers import SentenceTransformer

        try:
            folder = folder_of(model, version)
            if looks_local(model):
                _check_weights(model, "")
            self._model = SentenceTransformer(str(folder), model_kwargs={"use_safetensors": True})
        except EmbedderProblem:
            raise
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise _problem(model, error) from error
        self._batch_size = batch_size

    def embed(self, texts: list[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        return self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )


def load_embedder(model: str, batch_size: int, version: str | None = None) -> Embedder:
    """`lexical`, or a `version` of a sentence-transformers model as `resolve_embedder` gives it; raises EmbedderProblem."""
    return LexicalEmbedder() if model == LEXICAL else SentenceEmbedder(model, batch_size, version)


def resolve_embedder(model: str) -> str:
    """The version of an embedder that a run holds to.

    Raises EmbedderProblem, before anything is loaded, where `model` cannot be had or its weights are pickled.
    """
    if model == LEXICAL:
        return metadata.version("scikit-learn")
    if looks_local(model) and not any((Path(model) / file).is_file() for file in ("modules.json", "config.json")):
        raise EmbedderProblem(
            f"embedder.model: {model!r}: no such folder in sentence-transformers format; "
            f"accepted: such a folder, a hub name (owner/name), or {LEXICAL!r}, which works offline"
        )
    try:
        version = version_of(model)
        _check_weights(model, version)
    except OSError as error:
        raise _problem(model, error) from error
    return version


def _check_weights(model: str, version: str) -> None:
    """Raise EmbedderProblem where a module's weights are pickled, or not there; OSError."""
    files = files_of(model, version)
    root = Path(model) if looks_local(model) else folder_of(model, version, BUT_WEIGHTS)
    try:
        _require_no_code(model, root, files)
        modules = _modules(root, files)
    except EmbedderProblem:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise EmbedderProblem(
            f"embedder.model: {model!r}: modules.json or a config.json is damaged ({first_line(error)}); accepted: a "
            f"folder as sentence-transformers saves it, a hub name, or {LEXICAL!r}"
        ) from error
    for folder, of_transformers, named in modules:
        names = {Path(file).name for file in files if Path(file).parent == folder}
        where = f"embedder.model: {model!r}" + (f": {folder.as_posix()}" if folder.name else "")
        if of_transformers and "adapter_config.json" in names:
            raise EmbedderProblem(f"{where}: holds an adapter; merge it into its base model and save the result")
        pickled = names & _PICKLED | ({named} if named else set())
        if named or (not names & SAFETENSORS and (pickled or of_transformers)):
            raise EmbedderProblem(
                f"{where}: found {', '.join(sorted(pickled)) or 'no weights'}; accepted: model.safetensors, since pickled "
                "weights are not loaded; load the model where you trust it and save it again with save_pretrained"
            )


def _require_no_code(model: str, root: Path, files: set[str]) -> None:
    """Raise EmbedderProblem where a module is made by code that comes with the model: it is never run."""
    from transformers import CONFIG_MAPPING

    entries = _json(root / "modules.json") if "modules.json" in files else [{"path": "", "type": _OWN_MODULES}]
    for entry in entries:
        where = f"embedder.model: {model!r}: " + (f"{entry['path']}: " if entry["path"] else "")
        needs = None
        config = root / entry["path"] / "config.json"
        if not entry["type"].startswith(_OWN_MODULES):
            needs = f"a module of type {entry['type']!r}"
        elif entry["type"].endswith((".Transformer", _OWN_MODULES)) and config.is_file():
            kind = _json(config).get("model_type")
            if "auto_map" in _json(config) and kind not in CONFIG_MAPPING:
                needs = f"a model of type {kind!r}, which transformers does not have"
        if needs:
            raise EmbedderProblem(
                f"{where}found {needs}: it needs code that comes with the model, and such code is never run for an embedder; "
                f"accepted: a model without code of its own, such as sentence-transformers/all-MiniLM-L6-v2, or {LEXICAL!r}"
            )


def _modules(root: Path, files: set[str]) -> list[tuple[Path, bool, str | None]]:
    """Of each module its folder, whether it is a model of transformers, and the file of pickled weights that such a one insists
    on. Folders inside of another module's are modules too: it may be made of them."""
    listed = [(Path(), True)]
    if "modules.json" in files:
        entries = _json(root / "modules.json")
        listed = [(Path(entry["path"]), entry["type"].endswith(".Transformer")) for entry in entries]
    inner = {
        folder
        for folder in {Path(file).parent for file in files}
        for path, of_transformers in listed
        if path in folder.parents and not (of_transformers and path == Path())
    }
    unlisted = [(path, False) for path in sorted(inner - {path for path, _ in listed})]
    return [(path, whole, _named_weights(root / path) if whole else None) for path, whole in [*unlisted, *listed]]


def _named_weights(folder: Path) -> str | None:
    named = _json(folder / "config.json").get("transformers_weights")
    return None if named is None or str(named).endswith((".safetensors", ".safetensors.index.json")) else str(named)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def fingerprint(model: str, version: str) -> str:
    """128-bit hex digest of all that decides an embedding: the model's files, or its name and version on the hub.

    Releases of torch, transformers and sentence-transformers are not in it, for the reason given at `models.identity`.
    """
    if model == LEXICAL:
        identity = f"{LEXICAL} {_FEATURES} {_DIMENSIONS} {version}"
    elif looks_local(model):
        identity = files_digest(Path(model), "*.json", "*.txt", "*.model", "*.py", "*.safetensors")
    else:
        identity = f"{model}@{version}"
    return hashlib.blake2b(f"{_VERSION} {identity}".encode(), digest_size=DIGEST_BYTES).hexdigest()


def _problem(model: str, error: Exception) -> EmbedderProblem:
    readings = "" if looks_local(model) else f"{both_readings(model)}: "
    return EmbedderProblem(
        f"embedder.model: {model!r} could not be loaded ({first_line(error)}); {readings}is the name right and the model hub "
        f"reachable? Offline: set embedder.model to {LEXICAL!r} or to a local folder; for a private or gated model, "
        "put a token of the hub into HF_TOKEN"
    )


def embed_folded(embedder: Embedder, texts: list[str]) -> np.ndarray:
    """Embeddings of instructions as they are compared: with white space folded."""
    return np.ascontiguousarray(embedder.embed([fold_space(text) for text in texts]), dtype=np.float32)
