"""The configuration: what can be set, and to what. Frozen, validated at the door, and never seen by `operators`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from operators.word_ngrams import SHORTEST
from pipeline.config_section import Section
from pipeline.config_select import Select
from pipeline.config_served import Generator, ScorerServer


class Columns(Section):
    """Raw columns of a layout of the user's own: texts or turns, or a whole conversation; the keys and roles of its turns."""

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    messages: str | None = None  # a whole conversation
    system: str | None = None
    history: str | None = None
    role: str | None = None  # a key of turns, as `content` is
    content: str | None = None
    user: str | None = None  # a role, as `assistant` is
    assistant: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Columns:
        texts = [self.instruction, self.input, self.output, self.history]
        if self.messages is not None and any(column is not None for column in texts):
            raise ValueError(
                "messages is a whole conversation; accepted beside it: system, and role, content, user, assistant"
            )
        if self.messages is None and (self.instruction is None or self.output is None):
            raise ValueError(
                "expected instruction and output, each of them texts or turns, or messages, a whole conversation"
            )
        if self.role is not None and self.role == self.content:
            raise ValueError(f"role and content are two keys of a turn, and both are {self.role!r}; accepted: two keys")
        columns = [column for column in (self.messages, self.system, *texts) if column is not None]
        wrong = next((column for column in columns if not column or columns.count(column) > 1), None)
        if wrong is not None:
            what = f"{wrong!r} is named twice" if wrong else "one is named ''"
            raise ValueError(f"each column has a name, and stands for one thing: {what}; name another column there")
        return self


class Input(Section):
    """One input: a path, glob, directory or URL."""

    path: str = Field(min_length=1)
    source: str | None = None
    columns: Columns | None = None
    split: str = "train"  # of a Hugging Face dataset
    turns: Literal["last", "each"] = "last"  # of a conversation that are examples


class Exclude(Section):
    """Texts that no row may share words with, such as those of a benchmark."""

    path: str = Field(min_length=1)
    ngram: int = Field(13, ge=SHORTEST, le=1000)  # words in a row that are shared
    columns: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None  # null: all


class Dedup(Section):
    """Which rows go because another one is nearly the same."""

    near: float | None = Field(
        None, gt=0, le=1
    )  # Jaccard index of shingles from which on they are; null: only equal rows go


class Embedder(Section):
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    batch_size: int = Field(256, ge=1, le=1_000_000)


class Alternatives(Section):
    source: Literal["retrieved", "generated", "both"] = "retrieved"
    k: int = Field(8, ge=1, le=100_000)
    paraphrase_max: float = Field(0.95, gt=-1, le=1.01)
    pool: str | None = None
    same_task: Literal["exclude", "allow"] = "exclude"
    clusters: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = "auto"
    exact_below: int = Field(100_000, ge=0, le=2**40)  # distinct instructions that are searched without an index
    probes: int = Field(16, ge=1, le=1_000_000)  # lists of the index that a query looks into at first
    min_recall: float = Field(0.95, ge=0, le=1)  # of the index; where it is below, more lists are looked into
    generator: Generator = Generator()

    @model_validator(mode="after")
    def _countable(self) -> Alternatives:
        if self.source != "retrieved" and self.generator.count is None and self.k > 1000:
            raise ValueError(
                f"found k: {self.k} with source: {self.source}; accepted: k of at most 1000, or fewer instructions "
                "asked for of each input, with generator.count"
            )
        return self


OF_THE_CONVERSATION = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
)  # what a chat template is given of rows


class Scorer(Section):
    engine: Literal["transformers", "server"] = "transformers"
    model: str = "Qwen/Qwen2.5-0.5B"
    template: str = "alpaca"
    chat: dict[str, str | int | float | bool | None] = Field(default_factory=dict)  # variables of the chat template
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int = Field(2048, ge=8, le=2**31 - 1)  # counts of tokens are stored in 32 bits
    append_eos: bool = True
    too_long: Literal["reject", "truncate_input"] = "reject"
    batch_tokens: int | Literal["auto"] = "auto"
    trust_remote_code: bool = False
    server: ScorerServer = ScorerServer()

    @model_validator(mode="after")
    def _engine_fits(self) -> Scorer:
        if self.engine == "server" and self.server.base_url is None:
            raise ValueError("found engine: server without server.base_url; accepted: one such as http://host:8000/v1")
        if self.engine != "server" and self.server != ScorerServer():
            raise ValueError("found server with engine: transformers; set engine: server, or leave server out")
        set_in_vain = [name for name in ("dtype", "batch_tokens") if getattr(self, name) != "auto"]
        if self.engine == "server" and set_in_vain:
            raise ValueError(f"found {set_in_vain[0]} with engine: server, where the server decides it; leave it out")
        return self

    @model_validator(mode="after")
    def _chat_fits(self) -> Scorer:
        if self.chat and self.template != "chat":
            raise ValueError(
                f"found chat with template: {self.template}; its variables are for template: chat alone: set that, or "
                "leave chat out"
            )
        return self

    @field_validator("chat")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, given in value.items():
            if name in OF_THE_CONVERSATION or not name.isidentifier():
                raise ValueError(
                    f"{name!r} is no variable that can be set; accepted: names that the chat template reads, such as "
                    f"enable_thinking, other than {', '.join(OF_THE_CONVERSATION)}"
                )
            if isinstance(given, float) and not math.isfinite(given):
                raise ValueError(f"{name}: must be text, a finite number, true, false or null")
        return value

    @field_validator("batch_tokens")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value < 2**31:
            raise ValueError(f"must be 'auto' or from 1 to {2**31 - 1}")
        return value


class Score(Section):
    hardest: int = Field(4, ge=1, le=2**31 - 1)
    tau: float = Field(0.5, gt=1e-6, allow_inf_nan=False)
    alpha: float = Field(0.1, ge=0, allow_inf_nan=False)
    weight_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    weight_clip: float = Field(10.0, gt=0, allow_inf_nan=False)


class Ray(Section):
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


class Store(Section):
    """What a killed process may lose: seconds of scoring since its last part of the likelihood store."""

    write_every: float = Field(30.0, ge=0, allow_inf_nan=False)


# Keys that say where and how, and from which neither scores nor selections follow.
WHERE_AND_HOW = ("output", "ray", "store", "keep_runs")


class Config(Section):
    """The whole configuration."""

    input: Annotated[list[Input], Field(min_length=1)]
    output: str = Field(min_length=1)
    exclude: list[Exclude] = Field(default_factory=list)
    dedup: Dedup = Dedup()
    embedder: Embedder = Embedder()
    alternatives: Alternatives = Alternatives()
    scorer: Scorer = Scorer()
    score: Score = Score()
    select: Select = Select()
    ray: Ray = Ray()
    store: Store = Store()
    max_rejected_fraction: float = Field(0.05, ge=0, le=1)
    keep_runs: int | None = Field(None, ge=1)
    strict: bool = False  # publish nothing where the verdict on the scorer or the selection is a bad one
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _one_input(cls, data: Any) -> Any:
        return expand_inputs(data) if isinstance(data, dict) else data


def expand_inputs(data: dict[str, Any]) -> dict[str, Any]:
    """Short forms of `input` and `exclude` spelled out: a single one for a list of it, a path for a mapping with a path."""
    spelled = dict(data)
    for key in ("input", "exclude"):
        items = data.get(key)
        if isinstance(items, (str, dict)):
            items = [items]
        if isinstance(items, list):
            spelled[key] = [{"path": item} if isinstance(item, str) else item for item in items]
    return spelled
