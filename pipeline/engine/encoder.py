"""The encoder of a worker process: stages that turn text into ids share it."""

from __future__ import annotations

from functools import lru_cache

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder


@lru_cache(maxsize=1)
def cached_encoder(
    model: str,
    version: str,
    trust_remote_code: bool,
    template: str,
    template_text: str,
    append_eos: bool,
    max_length: int,
    vocab_size: int | None,
) -> Encoder:
    """The encoder of this worker process; tasks that follow each other share it."""
    from operators.scoring.models import (
        load_tokenizer,  # brings torch, which processes that encode nothing should not wait for
    )

    tokenizer = load_tokenizer(model, version=version, trust_remote_code=trust_remote_code)
    # The text that the driver read is what counts: a template file need not exist on this machine.
    return Encoder(tokenizer, load_template(template, tokenizer, template_text), append_eos, max_length, vocab_size)
