"""The sections of a configuration that say how a server is asked: the generator's, and the scorer's."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from operators.retrieval.generation_prompt import DEFAULT, check_prompt
from pipeline.config_section import Section


class Served(Section):
    """A server that speaks OpenAI's protocol, and how patient one is with it."""

    base_url: str | None = None
    api_key_env: str | None = None
    concurrency: int = Field(16, ge=1, le=1024)
    timeout: float = Field(300.0, gt=0, le=86_400)  # seconds that a server may take for one answer
    tries: int = Field(8, ge=1, le=100)

    @field_validator("base_url")
    @classmethod
    def _of_http(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", value):
            raise ValueError("expected a URL such as http://host:8000/v1, without options")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", value):
            raise ValueError(
                "expected the name of an environment variable in capitals, such as OPENAI_API_KEY, and never a key itself"
            )
        return value


class Generator(Served):
    """Who writes alternatives for a row's input, and how it is asked."""

    engine: Literal["transformers", "openai"] = "transformers"
    model: str = Field("Qwen/Qwen2.5-1.5B-Instruct", min_length=1)
    prompt: str = DEFAULT
    count: int | None = Field(None, ge=1, le=1000)  # instructions asked for; k of the alternatives where it is not set
    temperature: float = Field(0.7, ge=0, le=10, allow_inf_nan=False)
    max_new_tokens: int = Field(384, ge=1, le=1 << 16)
    max_input_chars: int = Field(4000, ge=1, le=1 << 24)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = Field(16, ge=1, le=1 << 16)

    @field_validator("prompt")
    @classmethod
    def _shows_input(cls, value: str) -> str:
        check_prompt(value)
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Generator:
        if self.engine == "openai" and self.base_url is None:
            raise ValueError("found engine: openai without base_url; accepted: one such as http://host:8000/v1")
        return self


class ScorerServer(Served):
    """The server behind which a scorer is; `model` is its name there, `scorer.model` where it is not set."""

    model: str | None = Field(None, min_length=1)
