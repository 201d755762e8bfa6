"""How a configuration is read: YAML that no alias or number can blow up, `a.b=value` on top, and words for what is wrong."""

from __future__ import annotations

import copy
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import Columns, Config, Exclude, Input, expand_inputs
from pipeline.errors import BadRequest, near_name
from pipeline.flags import flag_of
from pipeline.storage import urls

_MOST_KEYS, _DEEPEST, _MOST_PROBLEMS = 10_000, 50, 20
_CREDENTIALS = (
    "a URL with credentials in it, which would be kept in logs and manifests; accepted: a URL without, and credentials in the "
    "environment, such as AWS_ACCESS_KEY_ID and HF_TOKEN"
)
_KIND_NAMES = {type(None): "an empty file", list: "a list"}


# Of a value that aliases repeat, the whole repr could be of any length.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 90


def load(path: Path, overrides: list[str]) -> Config:
    """Read a YAML file, apply `a.b=value` overrides and validate; raises BadRequest that names file, line, key and value."""
    if ":/" in str(path):  # not shown: it may hold credentials
        raise BadRequest("CONFIG: found a URL; accepted: the path of a YAML config on this machine")
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BadRequest(f"{path}: no such file{near_name(str(path))}; accepted: the path of a YAML config") from error
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    data = _parse(text, str(path), "cannot be read as YAML")
    if not isinstance(data, dict):
        raise BadRequest(
            f"{path}: found {_KIND_NAMES.get(type(data), 'a single value')}, expected keys such as input and output"
        )
    return validate(override(data, overrides), str(path), text, overrides)


class _Loader(yaml.SafeLoader):
    """Safe YAML whose merge keys cannot multiply: ten of ten of ten are a few lines of text and any amount of memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise yaml.YAMLError(f"a mapping of more than {_MOST_KEYS} keys")


def _parse(text: str, origin: str, otherwise: str) -> Any:
    """The data of a YAML text; raises BadRequest that begins with `origin`, and says `otherwise` where it is not YAML."""
    try:
        data = _Loader(text).get_single_data()
    # A scalar with a tag or form that it does not fit (!!int x, 2001-99-99) fails in PyYAML as Python's own conversions do.
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise BadRequest(f"{origin}{_yaml_problem(error, otherwise)}") from error
    _check_values(data, origin)
    return data


def _yaml_problem(error: Exception, otherwise: str) -> str:
    """Where a text is no YAML and why, behind the name of its origin."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f": {otherwise}: {' '.join(str(error).split()) or type(error).__name__}"
    mark, problem = error.problem_mark, error.problem or "something is out of place"
    tab = "; accepted: spaces before keys, no tabs" if "'\\t'" in problem else ""
    began = error.context_mark
    where = f" ({error.context}, begun in line {began.line + 1})" if error.context and began else ""
    return f":{mark.line + 1}:{mark.column + 1}: {otherwise}: {problem}{where}{tab}"


def _check_values(data: Any, origin: str) -> None:
    """Raise BadRequest for a value that no key can have and that would fail far from here, or be shown and kept: a text that is
    not Unicode or that holds NUL, a URL with credentials, a number beyond 64 bits, deep nesting. A value that aliases repeat is
    looked at once."""
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[str, ...]]] = [(data, ())]
    while waiting:
        value, path = waiting.pop()
        at = f"{origin}: {'.'.join(path)[:200]}: " if path else f"{origin}: "
        if isinstance(value, str):
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                raise BadRequest(f"{at}found {_short(value)}: accepted: text without NUL and without lone surrogates")
            if urls.has_credentials(value):
                raise BadRequest(f"{at}{_CREDENTIALS}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BadRequest(f"{at}found a number beyond 64 bits; accepted: from -2^63 to 2^63 - 1")
        elif isinstance(value, (Mapping, list)) and id(value) not in seen:
            seen.add(id(value))
            if len(path) == _DEEPEST:
                raise BadRequest(f"{at}nested too deeply; accepted: at most {_DEEPEST} lists and keys in each other")
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(inner, (*path, _short(key) if not isinstance(key, str) else key[:80])) for key, inner in pairs]
            waiting += [(key, path) for key in value] if isinstance(value, Mapping) else []


def override(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """`data` with each `a.b=value` set; values are YAML. A budget of another unit replaces the old one."""
    data = expand_inputs(copy.deepcopy(data))
    for text in overrides:
        key, separator, value = text.partition("=")
        parts = key.strip().split(".")
        if urls.has_credentials(text):
            raise BadRequest(f"--set {'' if urls.has_credentials(key) else key.strip()}: {_CREDENTIALS}")
        if not separator or not all(parts):
            raise BadRequest(f"--set {text!r}: expected key=value, for example select.budget.tokens=100000")
        parsed = _parse(value, f"{flag_of(text)} {_short(text)}", "the value is not YAML")
        select = data.get("select") or {}
        if parts[:2] == ["select", "budget"] and len(parts) == 3 and isinstance(select, dict):
            data["select"] = {**select, "budget": {}}
        _put(data, parts, parsed, text)
    return data


def section_of(override: str) -> str:
    """The outermost key of an `a.b=value`."""
    return override.partition("=")[0].partition(".")[0].strip()


def _put(node: Any, parts: list[str], value: Any, text: str) -> None:
    for place, part in enumerate(parts[:-1]):
        if isinstance(node, list) and (index := _index(part, node)) is not None:
            node = node[index]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise BadRequest(
                f"{flag_of(text)} {text!r}: {'.'.join(parts[: place + 1])} holds a single value, not keys; accepted: "
                "this key under a section, or a place in a list"
            )
    if isinstance(node, list):
        index = _index(parts[-1], node)
        if index is None:
            raise BadRequest(
                f"{flag_of(text)} {text!r}: {parts[-1]!r} is no place of a list of {len(node)}; accepted: a number "
                f"from 0, such as {'.'.join([*parts[:-1], '0'])}"
            )
        node[index] = value
    else:
        node[parts[-1]] = value


def _index(part: str, node: list[Any]) -> int | None:
    """The place in a list that a part of a key names, if it does."""
    return int(part) if part.isdecimal() and len(part) < 10 and int(part) < len(node) else None


def validate(data: dict[str, Any], origin: str, text: str = "", overrides: Sequence[str] = ()) -> Config:
    """The Config of `data`; raises BadRequest with a line for each problem."""
    _check_values(data, origin)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems, root = error.errors(), yaml.compose(text, Loader=yaml.SafeLoader) if text else None
        lines = [_explain(problem, origin, root, overrides) for problem in problems[:_MOST_PROBLEMS]]
        lines += [f"{origin}: and {len(problems) - len(lines)} more"] if len(problems) > len(lines) else []
        raise BadRequest("\n".join(lines)) from error


def _explain(problem: Any, origin: str, root: yaml.Node | None, overrides: Sequence[str]) -> str:
    # A union reports once per member and adds the member's name to the path; those are no keys of the user's.
    path = [
        part
        for part in problem["loc"]
        if isinstance(part, int) or (part.isidentifier() and part not in {"int", "str", "float"})
    ]
    if problem["type"] == "extra_forbidden" and path[-1:] != [problem["loc"][-1]]:
        path.append(problem["loc"][-1])  # a key of the user's, whatever it is called
    key = ".".join(map(str, path))[:200]
    line = _line_of(root, path)
    at = f"{origin}:{line}" if line else origin
    overridden = {text.partition("=")[0].strip(): flag_of(text) for text in overrides}
    at = next((flag for name, flag in overridden.items() if name == key or name.startswith(f"{key}.")), at)
    if problem["type"] == "extra_forbidden":
        accepted = _keys_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), accepted, n=1) or keys_called(str(path[-1]))
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        return f"{at}: {key}: unknown key; {hint}accepted here: {', '.join(accepted)}"
    if problem["type"] == "missing":
        example = "runs/mine" if path[-1] == "output" else "data/alpaca.jsonl"
        return f"{at}: {key}: this key is required, and there is none; add it, such as {path[-1]}: {example}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = message.replace("a valid dictionary", "names with values, such as {name: value}")
    section = _model_at(path) if problem["type"] == "model_type" else None
    if names := list(getattr(section, "model_fields", {})):
        first = f" did you mean {key}.model?" if "model" in names and isinstance(problem["input"], str) else ""
        found = "a value that is not shown" if "api_key_env" in names else _short(problem["input"])
        return f"{at}: {key}: found {found};{first} accepted: keys below it, {', '.join(names)}"
    if len(path) == 1 and isinstance(problem["input"], dict) and problem["type"] == "value_error":
        return f"{at}: {key}: {message}"  # of a whole section, where the message says what was found
    # Who writes a key in place of the name of its variable must not find it in a log.
    found = "a value that is not shown" if path[-1:] == ["api_key_env"] else _short(problem["input"])
    return f"{at}: {key}: found {found}: {message[:1].lower() + message[1:2000]}"


def _keys_at(path: list[Any]) -> list[str]:
    return list(getattr(_model_at(path), "model_fields", {}))


def _model_at(path: list[Any]) -> Any:
    """The section, or the type, that a path of keys leads to."""
    model: Any = Config
    for part in path:
        if isinstance(part, str):
            model = _section(model, part)
    return model


def _section(section: Any, name: str) -> Any:
    """The section, or the type, that a key of a section holds; of a list, that of its items."""
    items: dict[tuple[Any, str], Any] = {
        (Config, "input"): Input,
        (Config, "exclude"): Exclude,
        (Input, "columns"): Columns,
    }
    return items.get((section, name), section.model_fields[name].annotation)


def keys_called(name: str) -> list[str]:
    """The full names of at most three keys of any section that are called so, or nearly so."""
    keys = _all_keys(Config)
    near = difflib.get_close_matches(name, {key.rpartition(".")[2] for key in keys}, n=1, cutoff=0.8)
    return [key for key in keys if key.rpartition(".")[2] in near][:3]


def _all_keys(section: Any, before: str = "") -> list[str]:
    """The full names of all keys of a section, outer ones first."""
    names = [f"{before}{name}" for name in section.model_fields]
    for name in section.model_fields:
        if hasattr(inner := _section(section, name), "model_fields"):
            names += _all_keys(inner, f"{before}{name}.{'0.' if inner in (Input, Exclude) else ''}")
    return names


def _line_of(node: yaml.Node | None, path: list[Any]) -> int | None:
    """The line of the deepest part of a key path that is written in a YAML text, whose root is `node`."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _short(value: Any) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
