"""The section `select` of the configuration: by what rows are ordered, which of them compete, and for what budget."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from operators.schema import SCORED
from operators.selection import filter
from operators.selection.budget_words import budget_of
from pipeline.config_section import Section

ON_ALTERNATIVES = {"tss", "tss_nce", "tss_pp", "tss_pp_bound", "rank", "weight", "alternatives"}
TEMPERATURE = 0.25  # of draws by tss_pp where nobody says (tests/benchmarks/RESULTS.md, "Downstream")
BUDGET_UNITS = ("tokens", "token_fraction", "examples", "example_fraction")


class Select(Section):
    score: str | dict[str, float] = "tss_pp"
    unit: Literal["example", "conversation"] = "example"  # that is selected whole
    unit_score: Literal["mean", "min"] = "mean"  # of a conversation, from the scores of its turns
    budget: Mapping[str, float] = Field(default_factory=lambda: {"token_fraction": 0.05})
    cost: Literal["total", "output"] = "total"
    where: str | None = None
    temperature: float | Literal["infinite"] | None = None
    max_per: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    quota: dict[str, dict[str, Annotated[float, Field(gt=0, le=1)]]] = Field(default_factory=dict)
    mode: Literal["full", "bounded"] = "full"

    @property
    def drawn_at(self) -> float:
        """The temperature as a number: what was asked for, or what is measured to serve tss_pp; another score has other units,
        and orders as it is."""
        if self.temperature is None:
            return TEMPERATURE if self.score == "tss_pp" else 0.0
        return math.inf if isinstance(self.temperature, str) else self.temperature

    def beyond_bounds(self) -> list[str]:
        """The keys, with their values, of what an upper bound of tss_pp cannot decide: only where tss_pp alone orders, and rows
        compete with no others than those above them, is it enough to leave a row out."""
        settings = [f"score: {self.score}"] if self.score != "tss_pp" else []
        ranked = self.where is not None and filter.has_ranks(filter.parse(self.where))
        settings += [f"where: {self.where}"] if ranked or self._filtered() & ON_ALTERNATIVES else []
        settings += [f"unit: {self.unit}"] if self.unit != "example" else []
        return settings + [f"{key}: {value}" for key in ("max_per", "quota") if (value := getattr(self, key))]

    def on_alternatives(self) -> bool:
        """Whether this selection depends on the likelihoods of alternatives at all."""
        return bool((set(self.score_columns()) | self._filtered()) & ON_ALTERNATIVES)

    def score_columns(self) -> list[str]:
        """The columns that the score is made of."""
        return [self.score] if isinstance(self.score, str) else list(self.score)

    def columns(self) -> dict[str, str]:
        """The columns that the selection depends on, each with the key that names it."""
        keys = {name: f"select.quota.{name}" for name in self.quota} | {
            name: f"select.max_per.{name}" for name in self.max_per
        }
        keys |= {name: f"select.score ({name})" for name in self.score_columns()}
        return keys | {name: f"select.where ({name})" for name in self._filtered()}

    def _filtered(self) -> set[str]:
        return filter.column_names(filter.parse(self.where)) if self.where else set()

    @model_validator(mode="after")
    def _mode_fits(self) -> Select:
        if self.mode == "bounded" and (beyond := self.beyond_bounds()):
            raise ValueError(
                f"found mode: bounded with {' and '.join(beyond)}; bounded serves score: tss_pp and unit: example, without "
                f"max_per, without quota, and without a where over ranks or {', '.join(sorted(ON_ALTERNATIVES))}; "
                "leave that out, or set mode: full"
            )
        return self

    @field_validator("score")
    @classmethod
    def _numeric_columns(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        names = [value] if isinstance(value, str) else list(value)
        for name in names or [""]:
            if not name or (name in SCORED.names and name not in filter.SCORE_CHOICES):
                raise ValueError(
                    f"no numeric column {name!r}; accepted: {', '.join(filter.SCORE_CHOICES)}, or a numeric column of the rows"
                )
        if not isinstance(value, str) and any(not math.isfinite(weight) or not weight for weight in value.values()):
            raise ValueError("weights must be finite numbers other than 0")
        return value

    @field_validator("temperature", mode="before")
    @classmethod
    def _temperature(cls, value: Any) -> Any:
        if isinstance(value, float) and value == math.inf:
            return "infinite"  # which JSON can say
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not (value == 0 or value >= 1e-6):
            raise ValueError("must be 0 (the plain ranking), from 1e-6 on, or infinite (a random draw)")
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _named_budget(cls, value: Any) -> Any:
        return budget_of(value)

    @field_validator("budget")
    @classmethod
    def _one_budget(cls, value: Mapping[str, float]) -> dict[str, float]:
        if len(value) != 1 or not set(value) <= set(BUDGET_UNITS):
            close = [near for name in value for near in difflib.get_close_matches(name, BUDGET_UNITS, n=1)]
            hint = f"did you mean {close[0]!r}? " if close and not set(value) <= set(BUDGET_UNITS) else ""
            raise ValueError(f"{hint}accepted: exactly one of {', '.join(BUDGET_UNITS)}")
        ((unit, asked),) = value.items()
        if unit.endswith("fraction") and not 0 < asked <= 1:
            raise ValueError(f"a share must be above 0 and at most 1, such as 5% or 0.05 ({unit})")
        if not unit.endswith("fraction") and (not 1 <= asked < 2**62 or asked != int(asked)):
            raise ValueError(f"{unit} must be a whole number of at least 1 and below 2**62")
        return {unit: asked if unit.endswith("fraction") else int(asked)}

    @field_validator("where")
    @classmethod
    def _parsed(cls, value: str | None) -> str | None:
        if value is not None:
            filter.check(value)
        return value

    @field_validator("quota", mode="before")
    @classmethod
    def _by_column(cls, value: Any) -> Any:
        """`{column: {value: share}}`; `{source: share}` is short for the column `source`. Values are named as text."""
        if not isinstance(value, dict):
            return value
        by_column = value if all(isinstance(shares, dict) for shares in value.values()) else {"source": value}
        return {
            column: {filter.group_name(name): share for name, share in shares.items()}
            for column, shares in by_column.items()
        }

    @field_validator("quota")
    @classmethod
    def _shares(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if len(value) > 1:
            raise ValueError(f"accepted: shares of one column, found {', '.join(value)}")
        for shares in value.values():
            if not shares:
                raise ValueError("no share in it; accepted: a share for each value, such as {source: {a: 0.5, b: 0.3}}")
            if sum(shares.values()) > 1 + 1e-9:
                raise ValueError(f"shares must add up to at most 1, found {sum(shares.values()):g}")
        return value
