"""What a command is given to work on: a configuration, or data and flags in its place.

One name that ends in .yaml or .yml is a configuration, and so is a file whose name ends in nothing that data has. All else is
data: files, folders, globs, URLs; then every key that no flag names has its default.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import read_config
from pipeline.config import Config
from pipeline.engine.session import is_local
from pipeline.errors import BadRequest, near_name
from pipeline.reading.chunks import plan
from pipeline.reading.file_kinds import ACCEPTED, kind_of, stem_of
from pipeline.reading.first_rows import first_rows, template_for
from pipeline.reading.listing import is_glob, place_of, table_format, table_name
from pipeline.storage.urls import has_credentials, is_url, name_of

SUFFIXES = (".yaml", ".yml")
READINGS = "a name that ends in .yaml or .yml is a configuration, any other is data"
_CONFIG_BYTES = 1 << 20  # of a file that may be a configuration


def load(words: Sequence[str], overrides: list[str], *, here: bool = True) -> Config:
    """The configuration that is named, or that of the named data, with overrides on top; raises BadRequest, which names both
    readings where it may be the other that was meant. Unless `here`, data lies where another machine sees it."""
    if is_config(words):
        try:
            return read_config.load(Path(words[0]), overrides)
        except BadRequest as problem:
            named = words[0].lower().endswith(SUFFIXES)
            if is_url(words[0]) or (named and _exists(words[0])):
                raise
            why = READINGS if named else f"read as a configuration, as its name is of no kind of data: {ACCEPTED}"
            raise BadRequest(f"{problem} ({why})") from problem
    return of_data(words, overrides, here=here)


def is_config(words: Sequence[str]) -> bool:
    """Whether the words name a configuration, and not data."""
    names = [word for word in words if word.lower().endswith(SUFFIXES)]
    if names:
        _refuse_credentials("CONFIG|DATA", words)
    if names and len(words) > 1:
        raise BadRequest(
            f"{names[0]}: is a configuration by its name, and {len(words) - 1:,} more names stand beside it; accepted: "
            "one configuration, or data alone (files, folders, URLs)"
        )
    (first, *others) = words
    is_file = not others and not is_url(first) and ":/" not in first and _exists(first) and Path(first).is_file()
    return bool(names) or (is_file and kind_of(first) is None)


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False  # a name that no file can have


def of_data(words: Sequence[str], overrides: list[str], *, here: bool = True) -> Config:
    """The configuration of data, in which every key that no override names has its default, and the template is one for such
    rows; raises BadRequest."""
    _refuse_credentials("DATA", words)
    for word in words:
        _refuse_config(word)
    config = read_config.validate(settings_of_data(words, overrides), "the configuration of this data", "", overrides)
    if not (here and is_local(config.ray.address)):
        return config  # the driver of a cluster may not see what workers do
    for word in words:
        if not is_url(word) and not is_glob(word) and not _exists(word):
            raise BadRequest(f"{word}: no such file or folder{near_name(word)} ({READINGS})")
    if any(text.partition("=")[0].strip() in ("scorer", "scorer.template") for text in overrides):
        return config
    # As `tss init` would write it.
    template = template_for(first_rows(plan(config)))
    return config.model_copy(update={"scorer": config.scorer.model_copy(update={"template": template})})


def settings_of_data(words: Sequence[str], overrides: list[str]) -> dict[str, Any]:
    """The keys of a configuration of data: its inputs, an output named for the first, and what overrides say."""
    data = {"input": [{"path": word} for word in words], "output": f"runs/{_name_of(words[0])}"}
    return read_config.override(data, overrides)


def _name_of(path: str) -> str:
    """What an input is called, in letters that any folder may be called by."""
    name = stem_of(name_of(place_of(path).rstrip("/")))
    # What is wrong with a path is said when it is read.
    with contextlib.suppress(OSError, ValueError, ImportError, RuntimeError, pa.ArrowException):
        if is_glob(path):
            name = name_of(path.split("*")[0].split("?")[0].split("[")[0].rstrip("/"))
        elif table_format(path) is not None:
            name = table_name(path)
    kept = "".join(char if char.isalnum() or char in "-_." else "-" for char in name).strip(".-")
    return kept[:80] or "data"


def _refuse_credentials(name: str, words: Sequence[str]) -> None:
    """Raise BadRequest, which shows none of the words that were given for `name`, where one is a URL with credentials."""
    if any(map(has_credentials, words)):
        raise BadRequest(
            f"{name}: a URL with credentials in it; accepted: a URL without, and credentials in the environment"
        )


def _refuse_config(word: str) -> None:
    """Raise BadRequest for a JSON file that holds the keys of a configuration, and would be read as a row."""
    path = Path(word)
    if (
        path.suffix.lower() != ".json"
        or is_url(word)
        or not _exists(word)
        or not path.is_file()
        or path.stat().st_size > _CONFIG_BYTES
    ):
        return
    try:
        keys = set(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError, TypeError):
        return  # whatever it is, the reader of data says so
    if {"input", "output"} < keys <= set(Config.model_fields):
        raise BadRequest(
            f"{word}: holds the keys of a configuration, and its name is one of data ({READINGS}); give it a name that "
            "ends in .yaml"
        )
