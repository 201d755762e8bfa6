"""The encoder of a worker process: stages that turn text into ids share it."""

from __future__ import annotations

import json
from functools import lru_cache

from operators.prompts.load_tokenizer import Chosen, load_tokenizer
from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder


@lru_cache(maxsize=1)
def cached_encoder(
    model: str,
    version: str,
    trust_remote_code: bool,
    template: str,
    template_text: str,
    chat: str,
    append_eos: bool,
    max_length: int,
    vocab_size: int | None,
    bos_opens_turns: bool,
    chosen: Chosen | None,
) -> Encoder:
    """The encoder of this worker process; tasks that follow each other share it. `chat` holds the variables of a chat template,
    as JSON; `chosen` the class of the tokenizer."""
    tokenizer = load_tokenizer(model, version=version, trust_remote_code=trust_remote_code, chosen=chosen)
    # The text that the driver read is what counts: a template file need not exist on this machine.
    loaded = load_template(template, tokenizer, template_text, json.loads(chat))
    return Encoder(tokenizer, loaded, append_eos, max_length, vocab_size, bos_opens_turns)
