"""A model's tokenizer: as transformers chooses it, and the same again in processes that tokenise and compute nothing.

What chooses among tokenizers imports torch and most of transformers, which takes a process longer than all else that it does
for a small corpus. The class that was chosen needs neither. So the choice is made once, and others are told of it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from typing import Any, NamedTuple

from operators.model_files import BUT_WEIGHTS, folder_of, problem_of, require_folder

_OWN = "transformers."  # how the names of modules begin whose classes do without code of a model's own
# What tokenizers treat apart: scripts, spaces, digits, marks, control characters, what looks like their own special tokens.
_TRIAL = " Tell me:\n\n\tI'd  sort 12,345.6 naïve café 日本語 🙂 İ ﬁ \u200d e\u0301 <s>[INST]</s><|im_start|> user\r\n "


class Chosen(NamedTuple):
    """A class of transformers that was chosen for a model, and a digest of what its tokenizer does."""

    module: str
    name: str
    digest: str


def load_tokenizer(
    name: str, *, version: str | None = None, trust_remote_code: bool = False, chosen: Chosen | None = None
) -> Any:
    """The tokenizer of the model `name`, loaded by the class that was `chosen` for it before, if any; the choice is made
    again where that class gives another tokenizer here. Raises ModelProblem."""
    require_folder(name)
    try:
        folder = folder_of(name, version, BUT_WEIGHTS)
        if chosen is not None:
            tokenizer = getattr(importlib.import_module(chosen.module), chosen.name).from_pretrained(folder)
            if _digest(tokenizer) == chosen.digest:
                return tokenizer
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise problem_of(name, "the tokenizer", error) from error


def choice_of(tokenizer: Any) -> Chosen | None:
    """What to tell others of a tokenizer; None where its code came with the model, or where it cannot take the trial text: then
    each chooses for itself."""
    kind = type(tokenizer)
    if not kind.__module__.startswith(_OWN):
        return None
    try:
        return Chosen(kind.__module__, kind.__name__, _digest(tokenizer))
    except Exception:  # noqa: BLE001 - of whatever kind the tokenizer raises; it may lack what no corpus holds
        return None


def _digest(tokenizer: Any) -> str:
    """128-bit hex digest of what a tokenizer makes of a trial text, its special tokens and its templates."""
    ids = [tokenizer(_TRIAL, add_special_tokens=special, verbose=False)["input_ids"] for special in (True, False)]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    facts = [ids, special, len(tokenizer), getattr(tokenizer, "chat_template", None)]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
