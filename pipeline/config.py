"""The configuration: frozen, validated at the door, and never seen by `operators`."""

from __future__ import annotations

import copy
import difflib
import math
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
    batch_size: int = Field(256, ge=1)


class Alternatives(_Section):
    k: int = Field(8, ge=1)
    paraphrase_max: float = Field(0.95, gt=-1, le=1.01)
    pool: str | None = None
    same_task: Literal["exclude", "allow"] = "exclude"


class Scorer(_Section):
    model: str = "Qwen/Qwen2.5-0.5B"
    template: str = "alpaca"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int = Field(2048, ge=8)
    append_eos: bool = True
    too_long: Literal["reject", "truncate_input"] = "reject"
    batch_tokens: int | Literal["auto"] = "auto"
    trust_remote_code: bool = False

    @field_validator("batch_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 'auto' or at least 1")
        return value


class Score(_Section):
    hardest: int = Field(4, ge=1)
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
        if not unit.endswith("fraction") and (asked < 1 or asked != int(asked)):
            raise ValueError(f"{unit} must be a whole number of at least 1")
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
    scorers: int | Literal["auto"] = "auto"
    embedders: int | Literal["auto"] = "auto"
    read_blocks: int | Literal["auto"] = "auto"

    @field_validator("scorers", "embedders", "read_blocks")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 'auto' or at least 1")
        return value

    @field_validator("gpus_per_scorer")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and (value < 0 or (value > 1 and value != int(value))):
            raise ValueError("must be 'auto', a fraction of one GPU, or a whole number of GPUs")
        return value


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
        data = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise BadRequest(f"{path}: no such file; accepted: the path of a YAML config") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BadRequest(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadRequest(
            f"{path}: found {_KIND_NAMES.get(type(data), 'a single value')}, expected keys such as input and output"
        )
    return validate(override(data, overrides), str(path), text, overrides)


def override(data: dict, overrides: list[str]) -> dict:
    """`data` with each `a.b=value` set; values are YAML. A budget of another unit replaces the old one."""
    data = expand_inputs(copy.deepcopy(data))
    for text in overrides:
        key, separator, value = text.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise BadRequest(f"--set {text!r}: expected key=value, for example select.budget.tokens=100000")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadRequest(f"--set {text!r}: the value is not YAML: {' '.join(str(error).split())}") from error
        if parts[:2] == ["select", "budget"] and len(parts) == 3:
            data["select"] = {**(data.get("select") or {}), "budget": {}}
        _put(data, parts, parsed, text)
    return data


def _put(node: Any, parts: list[str], value: Any, text: str) -> None:
    for place, part in enumerate(parts[:-1]):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise BadRequest(f"--set {text!r}: {'.'.join(parts[: place + 1])} holds a single value, not keys")
    if isinstance(node, list):
        if not parts[-1].isdigit() or int(parts[-1]) >= len(node):
            raise BadRequest(f"--set {text!r}: {parts[-1]!r} is no place of a list of {len(node)}")
        node[int(parts[-1])] = value
    else:
        node[parts[-1]] = value


def validate(data: dict, origin: str, text: str = "", overrides: Sequence[str] = ()) -> Config:
    """The Config of `data`; raises BadRequest with a line for each problem."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise BadRequest("\n".join(_explain(problem, origin, text, overrides) for problem in error.errors())) from error


def _explain(problem: Any, origin: str, text: str, overrides: Sequence[str]) -> str:
    # A union reports once per member and adds the member's name to the path; those are no keys of the user's.
    path = [
        part
        for part in problem["loc"]
        if isinstance(part, int) or (part.isidentifier() and part not in {"int", "str", "float"})
    ]
    key = ".".join(map(str, path))
    line = _line_of(text, path)
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
    return f"{at}: {key}: found {_short(problem['input'])}: {message[:1].lower() + message[1:]}"


def _keys_at(path: list[Any]) -> list[str]:
    model: Any = Config
    for part in path:
        if isinstance(part, str):
            field = model.model_fields[part].annotation
            model = Input if part == "input" else Columns if part == "columns" else field
    return list(getattr(model, "model_fields", {}))


def _line_of(text: str, path: list[Any]) -> int | None:
    """The line in a YAML text of the deepest part of a key path that is written there."""
    node = yaml.compose(text, Loader=yaml.SafeLoader) if text else None
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


_KIND_NAMES = {type(None): "an empty file", list: "a list"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
