"""What trainers ask for beside the data: LLaMA-Factory's `dataset_info.json`, a block for Axolotl, a script for TRL, and a
README that says how each loads the rows. Fields are those of LLaMA-Factory 0.9.5, Axolotl 0.19.0 and TRL 1.16.0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.export.shape import COLUMNS, TURN_COLUMNS, Shape
from pipeline.reading.data_folders import TAGS

INFO, AXOLOTL, TRL, README = "dataset_info.json", "axolotl.yaml", "trl_sft.py", "README.md"
_PREFIX = "tss"


@dataclass(frozen=True)
class Files:
    """The data files of an export by their names, where they will lie, and the shape of their rows."""

    folder: Path
    names: Sequence[str]
    shape: Shape

    @property
    def builder(self) -> str:
        """What `datasets` calls the kind of these files."""
        return "parquet" if self.names[0].endswith(".parquet") else "json"


def trainer_files(files: Files, account: Sequence[str]) -> dict[str, str]:
    """The text of each file by its name; `account` are the lines that say what was exported. A trainer that has no loader for
    the format gets no file."""
    texts = {
        INFO: _dataset_info(files),
        AXOLOTL: _axolotl(files),
        TRL: _trl(files),
    }
    written = {name: text for name, text in texts.items() if text is not None}
    return {**written, README: _readme(files, account, written)}


def _dataset_info(files: Files) -> str | None:
    """An entry for each data file; LLaMA-Factory has none for lists of turns in two columns."""
    to = files.shape.to
    if to == "prompt-completion":
        return None
    if to in TURN_COLUMNS:
        (column,) = TURN_COLUMNS[to]
        # It takes tools as text, which they are in the ShareGPT format alone.
        columns = {"messages": column, **({"tools": "tools"} if files.shape.tools and to == "sharegpt" else {})}
        entry: dict[str, Any] = {"formatting": "sharegpt", "columns": columns}
        if to == "messages":
            # The formatting `openai` writes "detailed thinking off" into system turns; `sharegpt` with its tags does not.
            entry["tags"] = TAGS["openai"]
    elif to == "alpaca":
        entry = {"formatting": "alpaca", "columns": {"prompt": "instruction", "query": "input", "response": "output"}}
    else:
        entry = {"formatting": "alpaca", "columns": {"prompt": "prompt", "response": "completion"}}
    entries = {_entry_name(name): {"file_name": name, **entry} for name in files.names}
    return json.dumps(entries, indent=2) + "\n"


def _entry_name(file: str) -> str:
    stem = file.rpartition(".")[0]
    return _PREFIX if stem == "train" else f"{_PREFIX}_{stem}"


def _axolotl(files: Files) -> str | None:
    """The key `datasets` of a configuration, with a block for each data file."""
    to = files.shape.to
    if to == "prompt-completion":
        return None
    block: dict[str, Any]
    if to in TURN_COLUMNS:
        role, content = ("role", "content") if to == "messages" else ("from", "value")
        block = {
            "type": "chat_template",
            "field_messages": TURN_COLUMNS[to][0],
            "message_property_mappings": {"role": role, "content": content},
            "roles_to_train": ["assistant"],
            "message_field_training": "train",
            "train_on_eos": "turn",
        }
        if to == "sharegpt":
            block["roles"] = {
                "user": ["human"],
                "assistant": ["gpt", "function_call"],
                "system": ["system"],
                "tool": ["observation"],
            }
    elif to == "alpaca":
        block = {"type": "alpaca"}
    else:
        texts = {"field_instruction": "prompt", "field_output": "completion"}
        block = {"type": {**texts, "format": "{instruction}", "no_input_format": "{instruction}"}}
    blocks = [{"path": str(files.folder / name), "ds_type": files.builder, **block} for name in files.names]
    text = yaml.safe_dump({"datasets": blocks}, sort_keys=False, allow_unicode=True)
    words = "# For the configuration of Axolotl. Paths are those of the machine that wrote this.\n"
    if to in TURN_COLUMNS:
        words += "# A turn with a boolean `train` is trained on or not, as it says; without it, turns of roles_to_train are.\n"
    return words + text


_SCRIPT = '''"""Fine-tune on this export with TRL: python {script} MODEL OUTPUT"""

import sys
from pathlib import Path

from datasets import {imports}

FOLDER = Path(__file__).resolve().parent
FILES = {files}


def load():
    """The rows as TRL takes them."""
    rows = load_dataset({builder!r}, data_files=[str(FOLDER / name) for name in FILES], split="train"{features})
    return {rows}

{extra}
def main(model, output):
    from trl import SFTConfig, SFTTrainer

    SFTTrainer(model=model, args=SFTConfig(output_dir=output), train_dataset=load()).train()


if __name__ == "__main__":
    main(*sys.argv[1:3])
'''
_TURNS_OF_ALPACA = '''
def turns(row):
    """One question, the instruction and after an empty line the input, and its answer, which alone is trained on."""
    question = f"{row['instruction']}\\n\\n{row['input']}" if row["input"] else row["instruction"]
    prompt = [{"role": "user", "content": question}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": row["output"]}]}

'''


def _trl(files: Files) -> str | None:
    """A script that loads the rows and trains; TRL takes ShareGPT's keys, but not its names of roles."""
    shape = files.shape
    if shape.to == "sharegpt":
        return None
    features = dict.fromkeys(TURN_COLUMNS.get(shape.to, ()), "List(Json())")
    if features:
        features |= {"tools": "Json()"} if shape.tools else {}
        features |= {"weight": 'Value("float64")'} if shape.weights else {}
    # Turns are JSON values: inferred structs would give each the keys of all others, and fail on one that comes later.
    listed = ", ".join(f'"{name}": {kind}' for name, kind in features.items())
    names = ["load_dataset"]
    if features and files.builder == "json":
        names += ["Features", "Json", "List", *(["Value"] if shape.weights else [])]
    return _SCRIPT.format(
        script=TRL,
        imports=", ".join(sorted(names, key=lambda name: (name.islower(), name))),
        files=json.dumps(list(files.names)),
        builder=files.builder,
        features=f", features=Features({{{listed}}})" if features and files.builder == "json" else "",
        rows="rows.map(turns, remove_columns=rows.column_names)" if shape.to == "alpaca" else "rows",
        extra=_TURNS_OF_ALPACA if shape.to == "alpaca" else "",
    )


def _readme(files: Files, account: Sequence[str], written: dict[str, str]) -> str:
    """A page with the front matter by which `datasets` finds the data files, and no other file of the folder."""
    front = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": list(files.names)}]}]}
    to, entries = files.shape.to, ",".join(_entry_name(name) for name in files.names)
    columns = [*COLUMNS[to], *(["tools"] if files.shape.tools else []), *(["weight"] if files.shape.weights else [])]
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        "# Rows for a trainer\n",
        *(f"- {line}" for line in account),
        f"- columns: {', '.join(columns)}",
        "\n## How to load them\n",
        '- `datasets`: `load_dataset("DIR", split="train")`, where DIR is this folder.',
        f"- TRL: `python {TRL} MODEL OUTPUT`."
        if TRL in written
        else "- TRL does not know the names of roles in this format: export with `--to messages` or `prompt-completion`.",
        f"- Axolotl: the block in `{AXOLOTL}`."
        if AXOLOTL in written
        else "- Axolotl has no loader for this format: export with `--to messages --mark-answer`.",
        f"- LLaMA-Factory: `dataset_dir: DIR`, `dataset: {entries}`."
        + (" `template: empty`, since prompts are rendered already." if to == "completion" else "")
        + (" `mask_history: true` trains on the last answer alone." if to in ("messages", "sharegpt") else "")
        if INFO in written
        else "- LLaMA-Factory has no loader for this format: export with `--to sharegpt`.",
    ]
    if files.shape.weights:
        lines.append(
            "- None of these trainers reads `weight`: it is for a loss of your own. "
            "For them, export with `--resample N` instead."
        )
    return "\n".join(lines) + "\n"
