"""Report pages of runs that tests name, a page as a browser would take it apart, and what must hold of every one."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

from hostile_inputs import MARKUP
from published_runs import publish_rows, scored_row

from pipeline.report import make, page
from pipeline.runs import open_run

FOLDER = Path(page.__file__).parent
VOID = {"meta", "input", "br"}
HOSTILE = [
    MARKUP,
    "</script><script>alert(1)</script>",
    "</style></title></textarea><!-- -->",
    "]]>--><svg onload=alert(1)>",
    "javascript:alert(1)",
    "line\u2028separator\u2029paragraph",
    "\u202eright to left\u202c \u2066isolate",
    "nul\0 bell\x07 escape\x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp;#x3c;script>",
    '" onmouseover="alert(1)" x=\'',
]


def scored(number, **more):
    """A row with scores; the lower the number, the better."""
    own = -0.1 - number / 10
    alternatives = [
        {
            "instruction": f"other {k}",
            "origin": ("retrieved", "generated")[k % 2],
            "similarity": 0.5,
            "loglik_mean": own - k,
        }
        for k in range(4)
    ]
    values = {
        "n_prompt_tokens": 5,
        "n_target_tokens": 5,
        "length": 5 + number % 9,
        "loglik_mean": own,
        "loglik_empty_mean": -2.0,
        "alternatives": alternatives,
        "n_alternatives": 4,
        "tss": 4.0 - number / 8,
        "tss_pp": -0.01 * (number + 1),
        "ppl": math.exp(-own),
        "ifd": math.exp(-2.0 - own),
        "random": random.Random(number).random(),
        "rank": 1,
        "cluster": number % 3,
    }
    texts = {"instruction": f"Do {number}.", "input": "", "output": f"Done {number}."}
    return scored_row(**{**texts, **values, **more})


def made(folder, every, selected, **more):
    """The page of a run of these rows, its manifest and its folder."""
    run = publish_rows(folder / "out", every, selected=selected, **more)
    manifest = open_run.read_manifest(str(run))
    return make.report_again(manifest, str(run)), manifest, run


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts and styles, and the scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        inner = self._open[-1] if self._open else ""
        if inner == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif inner != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that a reader sees, in one line."""
        return " ".join(" ".join(self.texts).split())

    @property
    def letters(self) -> str:
        """The same without white space."""
        return "".join("".join(self.texts).split())


def require_inert(text: str) -> Page:
    """The page; fails where it holds a tag, script, address or attribute that is not the template's own, or is too large."""
    parsed = Page(text)
    assert len(text.encode()) <= page.MOST_BYTES
    allowed = set(re.findall("<([a-z][a-z0-9]*)", (FOLDER / "page.html.jinja").read_text(encoding="utf-8")))
    assert {tag for tag, _ in parsed.tags} <= allowed, {tag for tag, _ in parsed.tags} - allowed
    for tag, attributes in parsed.tags:
        assert not any(
            name.startswith("on") or name in ("src", "srcdoc", "action", "formaction") for name in attributes
        )
        assert attributes.get("href", "#").startswith("#") and "javascript:" not in str(attributes.get("href"))
        assert tag == "a" or "href" not in attributes
    policy = next(
        str(each["content"]) for tag, each in parsed.tags if each.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and policy.count("unsafe-inline") == 1
    code = [body for attributes, body in parsed.scripts if attributes.get("type") != "application/json"]
    known = {(FOLDER / name).read_text(encoding="utf-8") for name in ("vega.min.js", "page.js")}
    assert code and set(code) <= known
    for body in code:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    for attributes, body in parsed.scripts:
        if attributes.get("type") == "application/json":
            assert not set("<>&\u2028\u2029\u202e") & set(body) and json.loads(body)
    return parsed
