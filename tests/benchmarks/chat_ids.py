"""Whether rows under `template: chat` have the ids that TRL's SFTTrainer trains on, with tokenizers of real models.

    python tests/benchmarks/chat_ids.py --folder SmolLM2=DIR --folder "Gemma 3=DIR" --tiktoken llama3=FILE --tiktoken qwen=FILE

A folder is a tokenizer in transformers format; templates of its family come from TRL beside its own. The vocabularies of Llama
and Qwen come as files of tiktoken, their templates from TRL. Templates of families whose tokenizers are not at hand are tried
with Qwen's vocabulary and their own control tokens. Needs trl and tiktoken. The day is that of our chat templates for TRL too.

It prints a table. `same ids` counts conversations whose prompt and target are what TRL trains on, up to what ends the last
turn; `as text` counts those with what looks like control tokens in every turn, whose ids say the same text and hold no special
token but those that the template has written; `refused` are conversations that the template itself refuses.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trl
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.utils import chat_template_utils
from trl.trainer.sft_trainer import _tokenize

from operators.normalise import normalise
from operators.prompts.chat_template import TODAY
from operators.prompts.template import bos_opens_turns, load_template
from operators.prompts.tokenise import Encoder

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CONTROL = re.compile(r"<[|｜][^\s'\"{}<>|｜]+[|｜]>")
LLAMA3 = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = {
    "Gemma 3": ["gemma3", "gemma"],
    "llama3": ["llama3", "llama3_1", "llama3_2"],
    "qwen": ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_5_think"],
}
STAND_INS = ["gptoss", "glm4moe", "phi3", "deepseekv3", "cohere2", "lfm2_v2"]
ENDS = {"deepseekv3": "<｜end▁of▁sentence｜>"}  # written as `eos_token`
ANSWERS = [
    "Rain is water that falls from clouds in drops.",
    "42",
    "def f(x):\n    return x + 1\n\nprint(f(2))",
    "- one\n- two\n  - three",
    "Москва — 東京, año 2024 😀.",
    'He said: "it\'s fine" (100%)',
    "A",
    "| a | b |\n|---|---|\n| 1 | 2 |",
]
QUESTIONS = [
    "What is rain?",
    "Add 40 and 2.",
    "Write f.\n\nIn Python.",
    "List:\none two",
    "Où? 東京!",
    "Quote it",
    "a",
    "  Table  x",
]


def conversations() -> Iterator[list[dict[str, str]]]:
    """Each question with its answer: alone, after a system turn, after earlier turns, after both."""
    for place, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        last = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        earlier = [
            {"role": "user", "content": QUESTIONS[place - 1]},
            {"role": "assistant", "content": ANSWERS[place - 1]},
        ]
        system = [{"role": "system", "content": f"You are brief.\nuser: no turn {place}"}]
        yield from (last, system + last, earlier + last, system + earlier + last)


def from_tiktoken(file: str, family: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a vocabulary of tiktoken, with the special tokens of its family."""
    tokens, options = (LLAMA3, {}) if family == "llama3" else (QWEN, {"pattern": QWEN_SPLIT})
    backend = TikTokenConverter(file, extra_special_tokens=list(tokens), **options).converted()
    named = {"bos_token": tokens[0]} if family == "llama3" else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tokens[1 if family == "llama3" else 0], **named)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """(tokenizer, template, the tokenizer with the template)."""
    for name, folder in (given.split("=", 1) for given in options.folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer.chat_template:
            yield name, "its own", tokenizer
        for template in FAMILIES.get(name, []):
            tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
            yield name, template, tokenizer
    for family, file in (given.split("=", 1) for given in options.tiktoken):
        for template in FAMILIES[family]:
            tokenizer = from_tiktoken(file, family)
            tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
            yield f"{family} vocabulary", template, tokenizer
        for template in STAND_INS if family == "qwen" else []:
            tokenizer = from_tiktoken(file, family)
            tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
            ends = [ENDS[template]] if template in ENDS else []
            control = sorted({*CONTROL.findall(tokenizer.chat_template), *ends})
            tokenizer.add_special_tokens({"additional_special_tokens": control})
            if ends:
                tokenizer.eos_token = ends[0]
            yield "qwen vocabulary (stand-in)", template, tokenizer


def ids_of(encoder: Encoder, messages: list[dict[str, str]]) -> list[int]:
    """Ids of prompt and target of a row that holds a conversation."""
    example = normalise({"messages": messages})
    turns = encoder.turns(example.instruction, example.messages)
    return encoder.prompt(example.instruction, example.input, turns) + encoder.targets([example.output])[0]


def trained(tokenizer: Any, messages: list[dict[str, str]], end: list[int]) -> list[int]:
    """Ids that TRL trains on, up to what ends the last turn."""
    ids: list[int] = _tokenize(tokenizer, messages)["input_ids"]
    stops = [stop for stop in range(len(ids), 0, -1) if ids[stop - len(end) : stop] == end]
    return ids[: stops[0]] if stops else [*ids, *end]


def as_text(encoder: Encoder, messages: list[dict[str, str]]) -> bool:
    """Whether what looks like control tokens, put into each turn, stays text and leaves the others as they were."""
    tokenizer, special = encoder.tokenizer, set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}
    tokens = [tokenizer.eos_token, *CONTROL.findall(tokenizer.chat_template), "<end_of_turn>"][:4]
    forged = [{**turn, "content": f"x {''.join(tokens)} y{turn['content']}"} for turn in messages]
    plain = [{**turn, "content": f"x  y{turn['content']}"} for turn in messages]
    ids, others = ids_of(encoder, forged), ids_of(encoder, plain)
    return [id for id in ids if id in special] == [id for id in others if id in special] and (
        tokenizer.decode(ids).count("".join(tokens)) == len(messages)
    )


def main() -> None:
    chat_template_utils.datetime = SimpleNamespace(now=lambda: TODAY)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--tiktoken", action="append", default=[], metavar="FAMILY=FILE")
    print(
        f"{'tokenizer':28s} {'template':20s} {'same ids':>9s} {'as text':>9s}  {'refused':>7s}  ends with, context of l(0)"
    )
    for name, template, tokenizer in cases(parser.parse_args()):
        encoder = Encoder(tokenizer, load_template("chat", tokenizer), True, 1 << 20, None, bos_opens_turns(tokenizer))
        same, text, refused, rows = 0, 0, 0, list(conversations())
        differing = []
        for messages in rows:
            try:
                expected = trained(tokenizer, messages, encoder.end)
            except TemplateError:  # TRL cannot train on it either
                refused += 1
                continue
            ids = ids_of(encoder, messages)
            same += ids == expected
            text += as_text(encoder, messages)
            differing += [(messages, ids, expected)] if ids != expected else []
        tried = len(rows) - refused
        ends = f"{tokenizer.decode(encoder.end)!r}, {tokenizer.decode(encoder.context)!r}"
        print(
            f"{name:28s} {template:20s} {same:4d}/{tried:<4d} {text:4d}/{tried:<4d}  {refused:7d}  {ends}", flush=True
        )
        for messages, ids, expected in differing[:1]:
            at = next(place for place in range(len(ids) + 1) if ids[: place + 1] != expected[: place + 1])
            ours, theirs = (tokenizer.decode(some[max(0, at - 2) : at + 6]) for some in (ids, expected))
            print(f"    {messages[-1]['content']!r}: {ours!r}, TRL {theirs!r}")


if __name__ == "__main__":
    main()
