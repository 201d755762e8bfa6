"""Published runs made without Ray: parts and a manifest as a run leaves them, around rows that a test names."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from operators.hashing import content_hash
from operators.prompts.template import BUILT_IN
from operators.schema import NEAR_DUPLICATES, REJECTED, SCORED, SELECTED, from_rows
from pipeline import read_config
from pipeline.runs import accounts
from pipeline.runs.card import card
from pipeline.runs.manifest import Budget, Counts, Manifest, Pairs, ScorerName, sealed
from pipeline.storage.parts import write_table
from pipeline.storage.records import Part

RUN = "20260101T000000-abcdef"
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"b": 1, "a": [2]}'}}
TOOL_CHAT = [
    {"role": "system", "content": "Be brief.", "weight": 0},
    {"role": "user", "content": "How high is it?", "name": "ann"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3 m", "tool_call_id": "c1"},
    {"content": "It is 3 m high.", "role": "assistant", "reasoning_content": "3 m, so", "weight": 1},
]
PLAIN_CHAT = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


def scored_row(instruction="Say it.", input="", output="It.", **more) -> dict[str, Any]:
    """A row of `scored/`; `messages` and `extra` may be given as values."""
    row = {
        "id": content_hash(instruction, input, output, str(more.pop("salt", ""))).hex(),
        "source": "a",
        "file": "a.jsonl",
        "line": 1,
        "instruction": instruction,
        "input": input,
        "output": output,
        "messages": None,
        "conversation": None,
        "turn": None,
        "extra": {},
        "tss_pp": 0.5,
        "weight": 1.0,
        "input_truncated": False,
        **more,
    }
    for name in ("messages", "extra"):
        if row[name] is not None and not isinstance(row[name], str):
            row[name] = json.dumps(row[name], ensure_ascii=False)
    return row


def chat_row(messages, **more) -> dict[str, Any]:
    """A row that came as role/content turns; its last user turn is the instruction, the last assistant turn the output."""
    spoken = [(turn.get("role"), turn.get("content")) for turn in messages]
    question = max(place for place, (role, _) in enumerate(spoken) if role == "user")
    answer = max(place for place, (role, _) in enumerate(spoken) if role == "assistant")
    before = "\n".join(f"{role}: {text or ''}" for role, text in spoken[:question])
    texts = {"instruction": spoken[question][1], "input": before, "output": spoken[answer][1]}
    return scored_row(**{**texts, "messages": messages, **more})


def publish_rows(
    output: Path,
    rows,
    *,
    selected=None,
    part_rows=1000,
    template="alpaca",
    seed=0,
    columns=(),
    select=None,
    scorer=None,
    named=None,
    rejected=(),
    near_duplicates=None,
    **more,
) -> Path:
    """A run in `output` whose scored rows are these, and whose selection are those of the given numbers (default: all).

    `scorer` are keys of its configuration, `named` is what the manifest says of it, `more` are keys of that."""
    run = output / "runs" / RUN
    chosen = [
        {**rows[i], "selection_rank": rank} for rank, i in enumerate(range(len(rows)) if selected is None else selected)
    ]
    files = {
        kind: _parts(run, kind, of_kind, schema, part_rows)
        for kind, of_kind, schema in (
            ("scored", rows, SCORED),
            ("selected", chosen, SELECTED),
            ("rejected", rejected, REJECTED),
            *([] if near_duplicates is None else [("near_duplicates", near_duplicates, NEAR_DUPLICATES)]),
        )
    }
    names = sorted({row["source"] for row in rows})
    scored, taken = (Counter(row["source"] for row in some) for some in (rows, chosen))
    sources = {
        name: Counts(read=scored[name], scored=scored[name], selected=taken[name], rejected={}) for name in names
    }
    config = read_config.validate(
        {
            "input": "a.jsonl",
            "output": str(output),
            "scorer": {"model": "m", "template": template, **(scorer or {})},
            "seed": seed,
            "select": select or {},
        },
        "test",
    )
    text = BUILT_IN.get(template, "{{ instruction }}")
    manifest = Manifest(
        run=RUN,
        config=config.model_dump(),
        versions={},
        scorer=named or ScorerName("m", "f", "float32", text, "h"),
        counts=accounts.in_all(sources),
        pairs=Pairs(computed=1, reused=0),
        files=files,
        columns=list(columns),
        instructions=len(rows),
        pool=len(rows),
        base=accounts.base_of(config),
        budget=Budget(100, "tokens", 90, 1000),
        scores={"quantiles": [0.5], "tss_pp": [0.5], "from": len(rows), "best": [], "worst": []},
        seed=seed,
    )
    manifest = replace(manifest, **more)
    (run / "README.md").write_text(card(manifest), encoding="utf-8")
    (run / "manifest.json").write_text(sealed(manifest))
    (output / "latest.json").write_text(json.dumps({"run": f"runs/{RUN}"}))
    return run


def _parts(run: Path, kind: str, rows, schema, part_rows: int) -> list[Part]:
    parts = []
    for number, start in enumerate(range(0, max(1, len(rows)), part_rows)):
        name = f"{kind}/part-{number:05d}.parquet"
        part = write_table(str(run / name), from_rows(rows[start : start + part_rows], schema))
        parts.append(replace(part, path=name))
    return parts
