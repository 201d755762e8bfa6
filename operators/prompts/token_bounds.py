"""How much text one token of a tokenizer can stand for: then some texts are known to be too long before they are tokenised.

A fast tokenizer takes some hundred bytes of memory for each byte of a text. The bound holds only where no character can
disappear or join others without a limit, so it is given for the kinds of tokenizers that are known to be so, and for no other.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # of tokenizers that fall back to bytes
_COMPOSING = {"NFC", "NFKC"}
_COMPOSED = 4  # code points that these make one of, at most
_KEEPING = {"ByteLevel", "Digits", "Metaspace"}  # pre-tokenizers that drop nothing


def longest_text(tokenizer: Any) -> int | None:
    """The most characters that are not white space that one token can stand for; None where nothing is certain.

    White space is left out since tokens may swallow any amount of it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = json.loads(backend.to_str())
    model, vocabulary = parts["model"], backend.get_vocab(with_added_tokens=True)
    steps = [*_steps(parts["normalizer"], "normalizers"), *_steps(parts["pre_tokenizer"], "pretokenizers")]
    if model["type"] != "BPE" or not _is_whole(model, vocabulary, steps) or not all(map(_keeps, steps)):
        return None
    composed = _COMPOSED if any(step["type"] in _COMPOSING for step in steps) else 1
    return composed * max(map(len, vocabulary))


def _is_whole(model: dict[str, Any], vocabulary: dict[str, int], steps: list[dict[str, Any]]) -> bool:
    """Whether every byte has a token of its own, so that nothing is dropped or joined for want of one."""
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False  # then there are tokens of bytes for some places of a word alone
    if model.get("byte_fallback"):
        return vocabulary.keys() >= _BYTES
    return vocabulary.keys() >= set(ByteLevel.alphabet()) and any(step["type"] == "ByteLevel" for step in steps)


def _steps(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [innermost for part in step[inner] for innermost in _steps(part, inner)]


def _keeps(step: dict[str, Any]) -> bool:
    """Whether a step of the tokenizer leaves at least a character for each that it takes, composed ones aside."""
    match step["type"]:
        case "Replace":
            pattern = step["pattern"].get("String")
            return pattern is not None and len(pattern) <= len(step["content"])
        case "Split" | "Punctuation":
            return bool(step["behavior"] != "Removed")
        case kind:
            return kind in _KEEPING | _COMPOSING | {"NFD", "NFKD", "Prepend"}
