"""Instruction embeddings, L2-normalised: sentence-transformers, or a lexical one that needs no model at all."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from operators.hub import files_digest, looks_local, revision, why_not_on_hub
from operators.text import DIGEST_BYTES, first_line, fold_space

LEXICAL = "lexical"
_FEATURES, _DIMENSIONS = 1 << 16, 512
_VERSION = 1  # of what this file does to a text and its vector; stored embeddings of another one are not used


class EmbedderProblem(ValueError):
    """An embedder that cannot be loaded, in words for the person who named it."""


class Embedder(Protocol):
    """What both embedders are."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """Float32 [N, D] with rows of length 1 (or 0 for a text without any feature)."""


class LexicalEmbedder:
    """Hashed character n-grams (3 to 5, within words) under a fixed sparse random projection.

    Similar wording gives similar vectors; it knows nothing of meaning. For machines without a GPU or a model hub.
    """

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.random_projection import SparseRandomProjection

        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), n_features=_FEATURES, dtype=np.float32
        )
        # The projection depends on the shape and the seed alone, so fitting needs no data.
        self._projection = SparseRandomProjection(_DIMENSIONS, random_state=0).fit(self._vectorizer.transform([""]))

    def embed(self, texts: list[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        vectors = np.asarray(self._projection.transform(self._vectorizer.transform(texts)).todense(), dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class SentenceEmbedder:
    """Any sentence-transformers model with safetensors weights: a hub name or a folder."""

    def __init__(self, model: str, batch_size: int, *, trust_remote_code: bool = False):
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(
                model, trust_remote_code=trust_remote_code, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise _fail(model, error) from error
        self._batch_size = batch_size

    def embed(self, texts: list[str]) -> np.ndarray:
        """See `Embedder.embed`."""
        return self._model.encode(
            texts, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )


def load_embedder(model: str, batch_size: int, *, trust_remote_code: bool = False) -> Embedder:
    """`lexical` or a sentence-transformers model; raises EmbedderProblem."""
    if model == LEXICAL:
        return LexicalEmbedder()
    return SentenceEmbedder(model, batch_size, trust_remote_code=trust_remote_code)


def check_embedder(model: str) -> None:
    """Raise EmbedderProblem, before anything is loaded, where `model` cannot be had."""
    if model == LEXICAL:
        return
    if looks_local(model):
        if not (Path(model) / "modules.json").is_file() and not (Path(model) / "config.json").is_file():
            raise EmbedderProblem(
                f"embedder.model: {model!r}: no such folder in sentence-transformers format; "
                f"accepted: such a folder, a hub name (owner/name), or {LEXICAL!r}, which works offline"
            )
        return
    reason = why_not_on_hub(model)
    if reason:
        raise _fail(model, OSError(reason))


def fingerprint(model: str) -> str:
    """128-bit hex digest of all that decides an embedding: the model's files, or its name and revision on the hub."""
    if model == LEXICAL:
        identity = f"{LEXICAL} {_FEATURES} {_DIMENSIONS} {version('scikit-learn')}"
    elif looks_local(model):
        identity = files_digest(Path(model), "*.json", "*.txt", "*.model", "*.py", "*.safetensors")
    else:
        identity = f"{model}@{revision(model)}"
    return hashlib.blake2b(f"{_VERSION} {identity}".encode(), digest_size=DIGEST_BYTES).hexdigest()


def _fail(model: str, error: Exception) -> EmbedderProblem:
    first = first_line(error)
    return EmbedderProblem(
        f"embedder.model: {model!r} could not be loaded ({first}); is the name right and the model hub reachable? "
        f"Offline: set embedder.model to {LEXICAL!r} or to a local folder"
    )


def embed_folded(embedder: Embedder, texts: list[str]) -> np.ndarray:
    """Embeddings of instructions as they are compared: with white space folded."""
    return np.ascontiguousarray(embedder.embed([fold_space(text) for text in texts]), dtype=np.float32)
