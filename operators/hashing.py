"""Text folding and content hashes: the identities on which duplicates, the pool and ties rest."""

from __future__ import annotations

import hashlib
import unicodedata

DIGEST_BYTES = 16


def content_hash(*texts: str) -> bytes:
    """128-bit BLAKE2b of several texts; each is prefixed by its length, so that ("ab", "c") differs from ("a", "bc")."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def fold_space(text: str) -> str:
    """Unicode NFC with every run of white space as one space and none at the ends: distinct instructions differ in this."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def fold_wording(text: str) -> str:
    """`fold_space` without case and punctuation; a text of punctuation alone keeps it, so that it equals only itself."""
    folded = fold_space(text)
    letters = "".join(" " if unicodedata.category(char).startswith("P") else char for char in folded.casefold())
    return " ".join(letters.split()) or folded
