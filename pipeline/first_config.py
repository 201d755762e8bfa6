"""`tss init`: a look at the first rows of some data, what was recognised in words, and a configuration that runs as it is."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import yaml

from operators.layouts import listed
from operators.normalise import Example
from pipeline import config_or_data, read_config
from pipeline.errors import BadRequest
from pipeline.planning.cells import COUNTED, chunk_size, rows_of_groups
from pipeline.reading.chunks import Chunk, plan
from pipeline.reading.file_kinds import ACCEPTED
from pipeline.reading.first_rows import FirstRows, first_rows, refusal, template_for

SHOWN_FILES = 12
_LETTERS = 50_000  # by which it is told how a corpus is written
_SHARE = 0.01  # of letters, from which on a script is named
_COMMENTS = {
    "output": "a folder, or s3://bucket/folder; every run gets a folder of its own in it",
    "embedder.model": "finds the alternatives of a row; offline: lexical (no model), or a local folder",
    "scorer.model": "any causal language model with safetensors: a name of the hub, or a local folder",
    "scorer.max_length": "tokens of prompt and output together; longer rows are rejected",
    "select.budget": "of the corpus' tokens; or 20k (tokens), 500 rows, 10% of rows",
    "select.where": 'keep rows by their columns, such as "ppl < 200 and length > 5"',
    "max_rejected_fraction": "of all rows, and of those of each file; more, and the run fails",
}
_TEMPLATES = {
    "chat": "the scorer's own chat template, as most rows are conversations; or alpaca, plain, a Jinja file",
    "alpaca": "as the rows are single instructions; or plain, chat (the scorer's own chat template), a Jinja file",
}


def first_config(words: Sequence[str], overrides: list[str]) -> tuple[str, list[str]]:
    """A commented configuration of data that `tss run` takes as it is, and lines that say what was recognised. Raises
    BadRequest where nothing is."""
    if config_or_data.is_config(words):
        if words[0].lower().endswith(config_or_data.SUFFIXES):
            raise BadRequest(f"{words[0]}: is a configuration already ({config_or_data.READINGS}); accepted: data")
        raise BadRequest(f"{words[0]}: unknown kind of file; accepted: {ACCEPTED}")
    config = config_or_data.of_data(words, overrides)
    chunks = plan(config)
    looks = first_rows(chunks)
    examples = [example for look in looks for example in look.examples]
    if not examples:
        raise BadRequest("\n".join(refusal(look) for look in looks[:3]))
    data = config_or_data.settings_of_data(words, overrides)
    shown = {
        "embedder.model": config.embedder.model,
        "scorer.model": config.scorer.model,
        "scorer.template": template_for(looks),
        "scorer.max_length": config.scorer.max_length,
        "select.budget": "5%",
        "select.where": None,
        "max_rejected_fraction": config.max_rejected_fraction,
    }
    for key, value in shown.items():
        _put_default(data, key.split("."), value)
    read_config.validate(data, "the configuration of this data")
    comments = {**_COMMENTS, "scorer.template": _TEMPLATES.get(data["scorer"]["template"], "")}
    for place in range(len(config.input)):
        comments[f"input.{place}"] = _recognised([look for look in looks if look.chunk.input_index == place])
    head = (
        "# Written by `tss init`, from the first rows of the data. `tss run config.yaml --dry-run` says what that takes,\n"
        "# and `tss run config.yaml` runs it. Every other key has its default.\n"
    )
    account = _account(chunks, looks, examples, config.max_rejected_fraction)
    return head + "\n".join(_yaml(data, "", comments)), account


def _put_default(data: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        data = data.setdefault(part, {})
    data.setdefault(parts[-1], value)


def _yaml(data: dict[str, Any], before: str, comments: dict[str, str]) -> list[str]:
    """The lines of a mapping, with what is said of a key behind its value."""
    lines, indent = [], "  " * before.count(".")
    for name, value in data.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and value and key in ("embedder", "scorer", "select"):
            lines += [f"{indent}{name}:", *_yaml(value, f"{key}.", comments)]
        elif key == "input":
            lines.append("input:")
            for place, item in enumerate(value):
                lines.append(f"  # {comments[f'input.{place}']}")
                lines += [f"  {'-' if not number else ' '} {line}" for number, line in enumerate(_pairs(item))]
        else:
            lines.append(_commented(f"{indent}{_flow(name)}: {_flow(value)}", comments.get(key, "")))
    return lines


def _pairs(item: dict[str, Any]) -> list[str]:
    return [f"{_flow(name)}: {_flow(value)}" for name, value in item.items()]


def _commented(line: str, words: str) -> str:
    return f"{line:<40} # {words}" if words else line


def _flow(value: Any) -> str:
    """A value as YAML of one line, in characters that any terminal and any file takes."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _recognised(looks: list[FirstRows]) -> str:
    layouts: Counter[str] = sum((look.layouts for look in looks), Counter[str]())
    columns = list(dict.fromkeys(name for look in looks for name in look.columns))
    words = f"{listed(name for name, _ in layouts.most_common())}; columns: {listed(columns)}"
    if any(example.messages is not None for look in looks for example in look.examples):
        words += "; with turns: each, every turn of an assistant is an example, and not the last one alone"
    return "".join(char if char.isprintable() else "?" for char in words)


def _account(chunks: list[Chunk], looks: list[FirstRows], examples: list[Example], most_rejected: float) -> list[str]:
    """What was recognised, for people: a line for each file, and what rows hold."""
    files = {(chunk.input_index, chunk.file_index) for chunk in chunks}
    lines = [line for look in looks[:SHOWN_FILES] for line in _of_file(look, chunks, most_rejected)]
    if len(files) > SHOWN_FILES:
        lines.append(
            f"files        and {len(files) - SHOWN_FILES:,} more; {len(looks):,} of {len(files):,} were looked at"
        )
    inputs = sum(bool(example.input.strip()) for example in examples)
    chats = sum(example.messages is not None for example in examples)
    prompts = [len(example.instruction) + len(example.input) for example in examples]
    outputs = [len(example.output) for example in examples]
    return [
        *lines,
        f"rows         {len(examples):,} looked at; {inputs / len(examples):.0%} have an input, "
        f"{chats / len(examples):.0%} are conversations",
        f"characters   of instruction and input {median(prompts):,.0f} in the middle, {max(prompts):,} at most; of the output "
        f"{median(outputs):,.0f} and {max(outputs):,}",
        f"letters      {_scripts(examples)}",
    ]


def _of_file(look: FirstRows, chunks: list[Chunk], most_rejected: float) -> list[str]:
    layouts = listed(
        f"{name} ({count:,})" if len(look.layouts) > 1 else name for name, count in look.layouts.most_common()
    )
    lines = [f"file         {look.chunk.uri}: {_rows(look, chunks)}; {layouts}; columns: {listed(look.columns)}"]
    if look.unreadable:
        lines.append(f"warning      {look.chunk.uri} cannot be read whole: {look.unreadable}")
    if look.rejections:
        line, first = look.rejections[0]
        lines.append(
            f"warning      {len(look.rejections):,} of the first {look.read:,} rows cannot be used; the first at line {line}: "
            f"{first.reason}: {first.detail[:200]}"
        )
        if len(look.rejections) > most_rejected * look.read:
            lines.append(
                f"warning      a run fails where more than {most_rejected:.0%} of a file's rows cannot be used: mend them, or "
                "set max_rejected_fraction higher"
            )
    return lines


def _rows(look: FirstRows, chunks: list[Chunk]) -> str:
    """How many rows a file has: counted, as the file says, or by its bytes."""
    place = look.chunk.input_index, look.chunk.file_index
    pieces = [chunk for chunk in chunks if (chunk.input_index, chunk.file_index) == place]
    if look.whole:
        return f"{look.read:,} rows"
    if look.chunk.kind == "parquet":
        return f"{sum(rows_of_groups(look.chunk.uri, look.chunk.size)):,} rows"
    if look.chunk.kind in COUNTED:
        return f"{sum(map(chunk_size, pieces)):,} rows"
    if look.unreadable or look.chunk.compression or not look.bytes:
        return f"more than {max(0, look.read - 1):,} rows"
    return f"about {look.chunk.size * look.read / look.bytes:,.0f} rows by its bytes"


def _scripts(examples: Iterable[Example]) -> str:
    """In which scripts texts are written. A language is more than that, and is not told."""
    counts: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for example in examples:
        letters.update(char for char in f"{example.instruction}{example.input}{example.output}" if char.isalpha())
        if letters.total() > _LETTERS:
            break
    for char, count in letters.items():
        counts[unicodedata.name(char, "unnamed").split(" ")[0].split("-")[0].capitalize()] += count
    shares = [(name, count / max(1, letters.total())) for name, count in counts.most_common()]
    return ", ".join(f"{share:.0%} {name}" for name, share in shares if share >= _SHARE) or "none"
