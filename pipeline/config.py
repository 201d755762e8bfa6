"""The configuration: frozen, validated at the door, and never seen by `operators`."""

from __future__ import annotations

import copy
import difflib
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from operators import where
from pipeline.errors import BadRequest


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Columns(_Section):
    """Raw column names of a layout of the user's own."""

    instruction: str
    input: str | None = None
    output: str


class Input(_Section):
    """One input: a path, glob, directory or URL."""

    path: str = Field(min_length=1)
    source: str | None = None
    columns: Columns | None = None
    split: str = "train"  # of a Hugging Face dataset


class Embedder(_Section):
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    batch_size: int = Field(256, ge=1, le=1_000_000)


class Alternatives(_Section):
    k: int = Field(8, ge=1, le=100_000)
    paraphrase_max: float = Field(0.95, gt=-1, le=1.01)
    pool: str | None = None
    same_task: Literal["exclude", "allow"] = "exclude"


class Scorer(_Section):
    model: str = "Qwen/Qwen2.5-0.5B"
    template: str = "alpaca"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int = Field(2048, ge=8, le=2**31 - 1)  # counts of tokens are stored in 32 bits
    append_eos: bool = True
    too_long: Literal["reject", "truncate_input"] = "reject"
    batch_tokens: int | Literal["auto"] = "auto"
    trust_remote_code: bool = False

    @field_validator("batch_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value < 2**31:
            raise ValueError(f"must be 'auto' or from 1 to {2**31 - 1}")
        return value


class Score(_Section):
    hardest: int = Field(4, ge=1, le=2**31 - 1)
    tau: float = Field(1.0, gt=0, allow_inf_nan=False)
    quality_weight: float = Field(0.5, allow_inf_nan=False)
    normalize: Literal["token", "sequence"] = "token"


ON_ALTERNATIVES = {"tss", "tss_pp", "tss_pp_bound", "rank", "alternatives"}
BUDGET_UNITS = ("tokens", "token_fraction", "examples", "example_fraction")


class Select(_Section):
    score: str | dict[str, float] = "tss_pp"
    budget: Mapping[str, float] = Field(default_factory=lambda: {"token_fraction": 0.05})
    cost: Literal["total", "output"] = "total"
    where: str | None = None
    max_per: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    quota: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    mode: Literal["full", "bounded"] = "full"

    def beyond_bounds(self) -> list[str]:
        """The keys, with their values, of what an upper bound of tss_pp cannot decide: only where tss_pp alone orders, and rows
        compete with no others than those above them, is it enough to leave a row out."""
        found = [f"score: {self.score}"] if self.score != "tss_pp" else []
        found += [f"where: {self.where}"] if self._filtered() & ON_ALTERNATIVES else []
        return found + [f"{key}: {value}" for key in ("max_per", "quota") if (value := getattr(self, key))]

    def on_alternatives(self) -> bool:
        """Whether this selection depends on the likelihoods of alternatives at all."""
        names = {self.score} if isinstance(self.score, str) else set(self.score)
        return bool((names | self._filtered()) & ON_ALTERNATIVES)

    def _filtered(self) -> set[str]:
        return where.column_names(where.parse(self.where)) if self.where else set()

    @model_validator(mode="after")
    def _mode_fits(self) -> Select:
        if self.mode == "bounded" and (found := self.beyond_bounds()):
            raise ValueError(
                f"found mode: bounded with {' and '.join(found)}; bounded serves score: tss_pp, without max_per, without "
                f"quota, and without a where over {', '.join(sorted(ON_ALTERNATIVES))}"
            )
        return self

    @field_validator("score")
    @classmethod
    def _known_score(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        names = [value] if isinstance(value, str) else list(value)
        for name in names or [""]:
            if name not in where.SCORE_CHOICES:
                raise ValueError(f"no numeric column {name!r}; accepted: {', '.join(where.SCORE_CHOICES)}")
        if not isinstance(value, str) and any(not math.isfinite(one) or not one for one in value.values()):
            raise ValueError("weights must be finite numbers other than 0")
        return value

    @field_validator("budget")
    @classmethod
    def _one_budget(cls, value: Mapping[str, float]) -> dict[str, float]:
        if len(value) != 1 or not set(value) <= set(BUDGET_UNITS):
            raise ValueError(f"accepted: exactly one of {', '.join(BUDGET_UNITS)}")
        ((unit, asked),) = value.items()
        if unit.endswith("fraction") and not 0 < asked <= 1:
            raise ValueError(f"{unit} must be above 0 and at most 1")
        if not unit.endswith("fraction") and (not 1 <= asked < 2**62 or asked != int(asked)):
            raise ValueError(f"{unit} must be a whole number of at least 1 and below 2**62")
        return {unit: asked if unit.endswith("fraction") else int(asked)}

    @field_validator("where")
    @classmethod
    def _parsed(cls, value: str | None) -> str | None:
        if value is not None:
            where.check(value)
        return value

    @field_validator("quota")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if sum(value.values()) > 1 + 1e-9:
            raise ValueError(f"shares must add up to at most 1, found {sum(value.values()):g}")
        return value


class Ray(_Section):
    address: str | None = None
    gpus_per_scorer: float | Literal["auto"] = "auto"
    scorers: int | list[int] | Literal["auto"] = "auto"
    embedders: int | list[int] | Literal["auto"] = "auto"
    read_blocks: int | Literal["auto"] = "auto"

    @field_validator("read_blocks")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 1_000_000:
            raise ValueError("must be 'auto' or from 1 to 1000000")
        return value

    @field_validator("scorers", "embedders")
    @classmethod
    def _size_or_range(cls, value: int | list[int] | str) -> int | list[int] | str:
        sizes = [value] if isinstance(value, int) else [] if isinstance(value, str) else value
        in_order = isinstance(value, (int, str)) or (len(sizes) == 2 and sizes[0] <= sizes[1])
        if not in_order or not all(1 <= size <= 1_000_000 for size in sizes):
            raise ValueError("must be 'auto', from 1 to 1000000, or a range [fewest, most] of these")
        return value

    @field_validator("gpus_per_scorer")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and (not 0 <= value < math.inf or (value > 1 and value != int(value))):
            raise ValueError("must be 'auto', a fraction of one GPU, or a whole number of GPUs")
        return value


class Store(_Section):
    """What a killed process may lose: seconds of scoring since its last part of the likelihood store."""

    write_every: float = Field(30.0, ge=0, allow_inf_nan=False)


class Config(_Section):
    """The whole configuration (SPEC 7)."""

    input: Annotated[list[Input], Field(min_length=1)]
    output: str = Field(min_length=1)
    embedder: Embedder = Embedder()
    alternatives: Alternatives = Alternatives()
    scorer: Scorer = Scorer()
    score: Score = Score()
    select: Select = Select()
    ray: Ray = Ray()
    store: Store = Store()
    max_rejected_fraction: float = Field(0.05, ge=0, le=1)
    keep_runs: int | None = Field(None, ge=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _one_input(cls, data: Any) -> Any:
        return expand_inputs(data) if isinstance(data, dict) else data


def expand_inputs(data: dict) -> dict:
    """Short forms of `input` spelled out: one input for a list of one, a path for a mapping with a path."""
    inputs = data.get("input")
    if isinstance(inputs, (str, dict)):
        inputs = [inputs]
    if not isinstance(inputs, list):
        return data
    return {**data, "input": [{"path": item} if isinstance(item, str) else item for item in inputs]}


def load(path: Path, overrides: list[str]) -> Config:
    """Read a YAML file, apply `a.b=value` overrides and validate; raises BadRequest that names file, line, key and value."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise BadRequest(f"{path}: no such file; accepted: the path of a YAML config") from error
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
        raise BadRequest(f"{origin}: {otherwise}: {' '.join(str(error).split()) or type(error).__name__}") from error
    _check_values(data, origin)
    return data


def _check_values(data: Any, origin: str) -> None:
    """Raise BadRequest for a value that no key can have and that would fail far from here: a text that is not Unicode or that
    holds NUL, a number beyond 64 bits, deep nesting. A value that aliases repeat is looked at once."""
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[str, ...]]] = [(data, ())]
    while waiting:
        value, path = waiting.pop()
        at = f"{origin}: {'.'.join(path)[:200]}: " if path else f"{origin}: "
        if isinstance(value, str):
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                raise BadRequest(f"{at}found {_short(value)}: accepted: text without NUL and without lone surrogates")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BadRequest(f"{at}found a number beyond 64 bits")
        elif isinstance(value, (Mapping, list)) and id(value) not in seen:
            seen.add(id(value))
            if len(path) == _DEEPEST:
                raise BadRequest(f"{at}nested too deeply")
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(inner, (*path, _short(key) if not isinstance(key, str) else key[:80])) for key, inner in pairs]
            waiting += [(key, path) for key in value] if isinstance(value, Mapping) else []


def override(data: dict, overrides: list[str]) -> dict:
    """`data` with each `a.b=value` set; values are YAML. A budget of another unit replaces the old one."""
    data = expand_inputs(copy.deepcopy(data))
    for text in overrides:
        key, separator, value = text.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise BadRequest(f"--set {text!r}: expected key=value, for example select.budget.tokens=100000")
        parsed = _parse(value, f"--set {_short(text)}", "the value is not YAML")
        select = data.get("select") or {}
        if parts[:2] == ["select", "budget"] and len(parts) == 3 and isinstance(select, dict):
            data["select"] = {**select, "budget": {}}
        _put(data, parts, parsed, text)
    return data


def _put(node: Any, parts: list[str], value: Any, text: str) -> None:
    for place, part in enumerate(parts[:-1]):
        if isinstance(node, list) and (index := _index(part, node)) is not None:
            node = node[index]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise BadRequest(f"--set {text!r}: {'.'.join(parts[: place + 1])} holds a single value, not keys")
    if isinstance(node, list):
        index = _index(parts[-1], node)
        if index is None:
            raise BadRequest(f"--set {text!r}: {parts[-1]!r} is no place of a list of {len(node)}")
        node[index] = value
    else:
        node[parts[-1]] = value


def _index(part: str, node: list) -> int | None:
    """The place in a list that a part of a key names, if it does."""
    return int(part) if part.isdecimal() and len(part) < 10 and int(part) < len(node) else None


def validate(data: dict, origin: str, text: str = "", overrides: Sequence[str] = ()) -> Config:
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
    if any(key == (set_key := one.partition("=")[0].strip()) or set_key.startswith(f"{key}.") for one in overrides):
        at = "--set"
    if problem["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{at}: {key}: unknown key; {hint}accepted here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{at}: {key}: this key is required"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if len(path) == 1 and isinstance(problem["input"], dict) and problem["type"] == "value_error":
        return f"{at}: {key}: {message}"  # of a whole section, where the message says what was found
    return f"{at}: {key}: found {_short(problem['input'])}: {message[:1].lower() + message[1:2000]}"


def _keys_at(path: list[Any]) -> list[str]:
    model: Any = Config
    for part in path:
        if isinstance(part, str):
            field = model.model_fields[part].annotation
            model = Input if part == "input" else Columns if part == "columns" else field
    return list(getattr(model, "model_fields", {}))


def _line_of(node: yaml.Node | None, path: list[Any]) -> int | None:
    """The line of the deepest part of a key path that is written in a YAML text, whose root is `node`."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


_MOST_KEYS, _DEEPEST, _MOST_PROBLEMS = 10_000, 50, 20
_KIND_NAMES = {type(None): "an empty file", list: "a list"}


# Of a value that aliases repeat, the whole repr could be of any length.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 90


def _short(value: Any) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
