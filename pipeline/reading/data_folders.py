"""Folders with a `dataset_info.json` in LLaMA-Factory's form, which says how the rows of the files beside it are laid out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from operators.error_text import one_line
from operators.rejections import Rejection
from pipeline.reading.rows import RawRow, Unread
from pipeline.storage import files
from pipeline.storage.urls import name_of, parent_of

DATASET_INFO = "dataset_info.json"
_MAX_BYTES = 16 << 20
_PLACES = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"}
_KEYS = ("file_name", "formatting", "columns", "tags", "ranking", "split")
# Names of columns and roles as layouts are recognised by, for those of LLaMA-Factory.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
_RANKED = {"chosen": "output", "rejected": "rejected"}
_ALPACA_DEFAULTS = {"prompt": "instruction", "query": "input", "response": "output"}
_TURNS = {"messages": "messages", "system": "system", "tools": "tools"}
_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
# What turns are called in each formatting, unless its `tags` say otherwise.
TAGS = {
    "sharegpt": {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
        "observation_tag": "observation",
        "function_tag": "function_call",
        "system_tag": "system",
    },
    "openai": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
        "function_tag": "function_call",
        "system_tag": "system",
    },
}
_COLUMN = {"sharegpt": "conversations", "openai": "messages"}
_ADVICE = "leave the entry out of the file, or give the files themselves as inputs"


@dataclass(frozen=True)
class DataEntry:
    """How the rows of a file, or of the files of a folder, are laid out: the name that a layout knows for each column, the keys
    of the role and the text in a turn, and what the roles mean; without `roles` the rows are no conversations."""

    path: str
    columns: dict[str, str]  # by the file's own names
    keys: dict[str, str]
    roles: dict[str, str]


def entries_of(listed: Sequence[tuple[str, int, str]]) -> tuple[list[tuple[str, int, str]], list[DataEntry]]:
    """The files of a folder that hold rows, and the entries of its dataset_info.json; raises ValueError."""
    rest = [file for file in listed if name_of(file[0]) != DATASET_INFO]
    entries: list[DataEntry] = []
    for uri, *_ in listed:
        if name_of(uri) == DATASET_INFO:
            entries.extend(_read(uri, [file[0] for file in rest]))
    if not rest:
        raise ValueError(f"no file of rows lies beside {DATASET_INFO}; accepted: a folder with the files that it names")
    return rest, entries


def _read(uri: str, others: list[str]) -> list[DataEntry]:
    try:
        info = json.loads(files.read(uri, at_most=_MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{uri} is no JSON: {one_line(error)}; mend it, or give the files as inputs") from error
    if isinstance(info, dict) and ("features" in info or any("features" in _object(value) for value in info.values())):
        return []  # what `datasets` notes of the files beside it
    if not isinstance(info, dict) or not all(_PLACES & _object(value).keys() for value in info.values()):
        raise ValueError(f"{uri}: found no entries with a file_name, nor features of a dataset; {_ADVICE}")
    # An entry without a file says nothing of the files here: it names a dataset of a hub, or a script.
    return [_entry(uri, name, entry, others) for name, entry in info.items() if entry.get("file_name") is not None]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entry(uri: str, name: str, entry: dict[str, Any], others: list[str]) -> DataEntry:
    def refuse(key: str, why: str) -> ValueError:
        return ValueError(f"{uri}: {name!r}.{key}: {why}; {_ADVICE}")

    for key, value in entry.items():
        if value is not None and key not in _KEYS:
            raise refuse(key, f"cannot be honoured; accepted: {', '.join(_KEYS)}")
    if entry.get("split") not in (None, "train"):
        raise refuse("split", f"found {entry['split']!r}; a file has the split train alone")
    place = entry.get("file_name")
    path = f"{parent_of(uri)}/{str(place).rstrip('/')}"
    if not isinstance(place, str) or not any(other == path or other.startswith(f"{path}/") for other in others):
        raise refuse("file_name", f"{place!r} is no file of a known kind in this folder")
    formatting = entry.get("formatting") or "alpaca"
    if formatting not in ("alpaca", *TAGS):
        raise refuse("formatting", f"found {formatting!r}; accepted: alpaca, sharegpt, openai")
    columns, tags = ({**_texts(entry.get(key), lambda why, key=key: refuse(key, why))} for key in ("columns", "tags"))
    if formatting == "alpaca":
        return _alpaca(path, columns, tags, bool(entry.get("ranking")), refuse)
    if entry.get("ranking"):
        raise refuse("ranking", "conversations to choose between cannot be honoured")
    return _conversations(path, formatting, columns, tags, refuse)


def _texts(value: Any, refuse: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise refuse(f"found {repr(value)[:80]}; accepted: an object of names, each of them text")
    return value


def _alpaca(path: str, columns: dict[str, str], tags: dict[str, str], ranking: bool, refuse: Any) -> DataEntry:
    names = {**_ALPACA, **_RANKED} if ranking else _ALPACA
    if tags:
        raise refuse("tags", "rows that are no conversations have none")
    columns = columns or {**_ALPACA_DEFAULTS, **({"chosen": "chosen", "rejected": "rejected"} if ranking else {})}
    if ranking:
        columns.pop("response", None)
    unknown = next((key for key in columns if key not in names), None)
    if unknown is not None:
        raise refuse(f"columns.{unknown}", f"cannot be honoured; accepted: {', '.join(names)}")
    absent = next((key for key in ("prompt", "chosen" if ranking else "response") if key not in columns), None)
    if absent is not None:
        raise refuse("columns", f"no {absent}, which each row has to have")
    return DataEntry(path, {column: names[key] for key, column in columns.items()}, {}, {})


def _conversations(path: str, formatting: str, columns: dict[str, str], tags: dict[str, str], refuse: Any) -> DataEntry:
    columns = columns or {"messages": _COLUMN[formatting]}
    unknown = next((f"columns.{key}" for key in columns if key not in _TURNS), None)
    unknown = unknown or next((f"tags.{key}" for key in tags if key not in TAGS[formatting]), None)
    if unknown is not None:
        raise refuse(
            unknown, f"cannot be honoured; accepted: columns {', '.join(_TURNS)}, tags {', '.join(TAGS[formatting])}"
        )
    if "messages" not in columns:
        raise refuse("columns", "no messages, which each row has to have")
    tags = {**TAGS[formatting], **tags}
    return DataEntry(
        path,
        {column: _TURNS[key] for key, column in columns.items()},
        {tags["role_tag"]: "role", tags["content_tag"]: "content"},
        {tags[tag]: role for tag, role in _ROLES.items()},
    )


def entry_of(uri: str, entries: Sequence[DataEntry]) -> DataEntry | None:
    """The entry of a file; None where there is none, or where it says what would be recognised without it.

    Raises ValueError where two entries lay out its rows in two ways.
    """
    of_file = [replace(entry, path="") for entry in entries if uri == entry.path or uri.startswith(f"{entry.path}/")]
    if any(entry != of_file[0] for entry in of_file):
        raise ValueError(f"{uri}: two entries of {DATASET_INFO} lay out its rows in two ways; {_ADVICE}")
    return of_file[0] if of_file and not _is_plain(of_file[0]) else None


def _is_plain(entry: DataEntry) -> bool:
    if not entry.roles:
        return all(column == name for column, name in entry.columns.items())
    native = [(_COLUMN[form], TAGS[form]) for form in TAGS]
    return any(
        entry.columns == {column: "messages"}
        and entry.keys == {tags["role_tag"]: "role", tags["content_tag"]: "content"}
        and entry.roles == {tags[tag]: role for tag, role in _ROLES.items()}
        for column, tags in native
    )


def arranged(row: Unread, entry: DataEntry) -> Unread:
    """A row with its columns, turns and roles under the names that layouts are recognised by."""
    return Unread(row.line, row.size, lambda: _arranged(row.make(), entry))


def _arranged(row: RawRow, entry: DataEntry) -> RawRow:
    if row.problem is not None or not isinstance(row.record, Mapping):
        return row
    named = {name: row.record[column] for column, name in entry.columns.items() if column in row.record}
    rest = {column: value for column, value in row.record.items() if column not in entry.columns}
    twice = next((column for column in rest if column in entry.columns.values()), None)
    if twice is not None:
        detail = (
            f"{DATASET_INFO} takes another column for {twice!r}, and the row has a column {twice!r} too; accepted: an "
            "entry that names both"
        )
        return replace(row, record=None, problem=Rejection("wrong_type", detail))
    if entry.roles and isinstance(named.get("messages"), list):
        turns = [_turn(turn, entry) for turn in named["messages"]]
        system = named.pop("system", None)
        named["messages"] = [{"role": "system", "content": system}, *turns] if system else turns
    return replace(row, record={**named, **rest})


def _turn(turn: Any, entry: DataEntry) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    renamed = {entry.keys.get(key, key): value for key, value in turn.items()}
    role = renamed.get("role")
    return {**renamed, "role": entry.roles.get(role, role)} if isinstance(role, str) else renamed
