"""One run over rows that attack all that shows them."""

import csv
import json
import random
from collections import Counter
from pathlib import Path

import small_runs
from conftest import write_jsonl
from hostile_inputs import MARKUP, deep
from report_pages import require_inert

from pipeline import config, flow
from pipeline.engine.progress import Reporter
from pipeline.errors import printable
from pipeline.reading import text_files
from pipeline.report import make
from pipeline.runs import open_run
from pipeline.runs.manifest import manifest_digest, opened

VERBATIM = [
    MARKUP,
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "a\0b\0",
    "\u202eright to left\u202c \u200f\u061c",
    "\x1b[2J\x1b]0;title\x07 \r over",
    "\ufeff\ufffe\uffff\U0010ffff",
    "{{ 7 * 7 }} {% for a in b %} ${jndi:ldap://x}",
    "../../etc/passwd\\..\\..",
    "' OR 1=1; DROP TABLE rows; --",
    "Z\u0351\u036b" * 3,
]


def test_one_run_over_all_of_it(tmp_path, ray_session, model_folder):
    rows = [
        {"instruction": f"Do {i}: {text}", "input": text, "output": text, text: text} for i, text in enumerate(VERBATIM)
    ]
    bad = [
        "{" * 500,
        deep(100_000),
        '{"instruction": "I", "output": "\\ud800"}',
        b'{"instruction": "\xff", "output": "Y"}',
        b"\0\0\0",
        b"x" * (text_files.MAX_ROW_BYTES + 10),
        {"instruction": "I", "output": MARKUP, "x": json.loads(deep(300))},
        {MARKUP: MARKUP},
        [MARKUP],
        {"messages": [{"role": {"a": 1}, "content": "b"}]},
        {"instruction": " \n", "output": "Y"},
        {"instruction": "I", "output": "Y" * 1000},
    ]
    random.Random(0).shuffle(bad)
    odd = tmp_path / "<b onclick=alert(1)>&\x1b[2J.jsonl"
    write_jsonl(odd, [*rows[:6], *bad, rows[0], *rows[6:]])
    with (tmp_path / "formulas.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["instruction", "output", MARKUP], ["=1+1", "=cmd|x", "+1"], ["-2+3", "@x", "\0"], ["short"]])
    escape = config.Input(path=str(tmp_path / "formulas.csv"), source="../../../" + MARKUP + "/\x1b[31m" + "y" * 5000)
    wanted = small_runs.settings(tmp_path / "out", [odd], model_folder, scorer__too_long="reject")
    wanted = wanted.model_copy(update={"input": [*wanted.input, escape]})
    before = set(tmp_path.iterdir())
    summary = flow.run(wanted, Reporter(quiet=True))

    manifest = small_runs.manifest_of(Path(summary.run))
    counts = manifest["counts"]
    assert counts["read"] == len(rows) + 1 + len(bad) + 3
    assert counts["read"] == sum(counts["rejected"].values()) + counts["duplicates"] + counts["scored"]
    assert counts["duplicates"] == 1 and sum(counts["rejected"].values()) == len(bad) + 1
    assert set(counts["sources"]) == {odd.stem, escape.source}

    scored = {row["instruction"]: row for row in small_runs.table(Path(summary.run), "scored")}
    for row, text in zip(rows, VERBATIM, strict=True):
        found = scored[row["instruction"]]
        assert (found["input"], found["output"], json.loads(found["extra"])) == (text, text, {text: text})
    assert scored["=1+1"]["output"] == "=cmd|x" and json.loads(scored["-2+3"]["extra"]) == {MARKUP: "\0"}
    assert scored["=1+1"]["source"] == escape.source
    rejected = small_runs.table(Path(summary.run), "rejected")
    assert Counter(row["reason"] for row in rejected) == counts["rejected"]
    assert sorted(row["line"] for row in rejected if row["source"] == odd.stem) == list(range(7, 7 + len(bad)))
    assert all(json.loads(row["raw"]) is not None for row in rejected if row["reason"] != "not_an_object")

    page = (Path(summary.run) / open_run.REPORT).read_text(encoding="utf-8")
    assert require_inert(page).text.count(MARKUP) > 5 and manifest["report"].get("problem") is None
    shown = printable(summary.text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "out"}
    assert not any("y" * 100 in str(path) for path in (tmp_path / "out").rglob("*"))

    poison = {**poisoned(manifest), "counts": {**counts, "sources": {MARKUP: counts["sources"][odd.stem]}}}
    poison = opened(json.dumps({**poison, "digest": manifest_digest(poison)}).encode())
    assert require_inert(make.report_without_rows(poison, MARKUP)).text.count(MARKUP) > 10


def poisoned(value):
    """The value with markup for each text."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    return (
        [poisoned(inner) for inner in value] if isinstance(value, list) else MARKUP if isinstance(value, str) else value
    )
