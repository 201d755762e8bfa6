"""A manifest checks itself, and says in words why it is none."""

import json

import pytest

from pipeline.runs.manifest import AllCounts, Manifest, Pairs, ScorerName, manifest_digest, opened, sealed, to_plain

MANIFEST = Manifest(
    run="r",
    config={"select": {}},
    versions={},
    scorer=ScorerName("m", "f", "float32", "", ""),
    counts=AllCounts(read=1, scored=1),
    pairs=Pairs(1, 0),
    files={"scored": []},
    columns=[],
    instructions=1,
    pool=1,
    base={},
)


def test_a_sealed_manifest_opens_again():
    assert opened(sealed(MANIFEST).encode()) == MANIFEST


def test_what_an_earlier_release_did_not_say_is_left_open():
    plain = to_plain(MANIFEST)
    old = {key: plain[key] for key in ("run", "config", "versions", "scorer", "counts", "pairs", "files")}
    old |= {key: plain[key] for key in ("columns", "instructions", "pool", "base")}
    assert opened(json.dumps({**old, "digest": manifest_digest(old)}).encode()) == MANIFEST


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "cannot be read"),
        (b"[" * 200_000, "nested too deeply"),
        (b'"text"', "found str instead of an object"),
        (b"{}", "is no manifest of a finished run: it has no run, config"),
        (sealed(MANIFEST).replace('"read": 1', '"read": 2').encode(), "its digest differs"),
    ],
)
def test_what_is_no_manifest_is_said_in_words(data, words):
    with pytest.raises(ValueError, match=words):
        opened(data)


def test_text_instead_of_a_number_is_named_by_its_place():
    plain = {**to_plain(MANIFEST), "pairs": {"computed": "many", "reused": 0}}
    with pytest.raises(ValueError, match=r"pairs\.computed: Input should be a valid integer"):
        opened(json.dumps({**plain, "digest": manifest_digest(plain)}).encode())
