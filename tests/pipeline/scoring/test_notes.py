"""What the driver says of blocks that are not finished: pairs, how many there will be, how fast, how long."""

import json
from types import SimpleNamespace

import pytest

from pipeline.scoring import notes
from pipeline.scoring.notes import Watch


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(notes.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(notes.time, "time", lambda: now.seconds + 1e9)
    return now


def block(number, rows):
    return SimpleNamespace(block=number, placed=SimpleNamespace(rows=rows + 1), duplicates={"a": 1})


def scored(number, computed, tokens, seconds):
    work = SimpleNamespace(computed=computed, resumed=0, tokens=tokens, seconds=seconds)
    return SimpleNamespace(block=number, work=work)


def note(folder, actor, ago=0.0, **facts):
    path = folder / notes.FOLDER / f"{actor}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"block": -1, "loading": False, "written": notes.time.time() - ago, **facts}))


def test_one_block_moves_from_the_first_note_on(tmp_path, clock):
    watch = Watch("score", str(tmp_path), [block(0, 40)])
    assert watch.look().words == "no pair is computed yet"
    note(tmp_path, "a", loading=True)
    assert watch.look().words == "1 of 1 scorers load their model and try it"
    # The longest come first: a fourth of the pairs has more than half of the tokens.
    note(tmp_path, "a", block=0, done=100, tokens=6000, seconds=60.0, all=400, all_tokens=10_000)
    assert watch.look() == notes.UnderWay("100 of 400 pairs, 100 tokens a second, 40 s left", 0.6)
    clock.seconds += 15  # nothing new is known, and the scorer goes on
    assert watch.look() == notes.UnderWay("100 of 400 pairs, 100 tokens a second, 25 s left", 0.6)
    note(tmp_path, "a", block=0, done=160, tokens=7500, seconds=100.0, all=400, all_tokens=10_000)
    assert watch.look() == notes.UnderWay("160 of 400 pairs, 75 tokens a second, 33 s left", 0.75)


@pytest.mark.parametrize(
    ("ago", "left"),
    [
        (4, "36 s"),
        (3600, "30 s"),  # a clock that is an hour late: it was written after the look before this one
        (-3600, "40 s"),  # an hour early: it was written before it was seen
    ],
)
def test_a_note_is_as_old_as_its_machine_s_clock_says_between_two_looks(tmp_path, clock, ago, left):
    watch = Watch("score", str(tmp_path), [block(0, 40)])
    watch.look()
    clock.seconds += 10
    note(tmp_path, "a", ago, block=0, done=100, tokens=6000, seconds=60.0, all=400, all_tokens=10_000)
    assert watch.look().words.endswith(f"{left} left")


def test_pairs_of_blocks_that_have_not_begun_are_those_of_others_by_rows(tmp_path):
    watch = Watch("score", str(tmp_path), [block(number, 10) for number in range(4)])
    watch.finish(scored(0, 100, 1000, 10.0))
    note(tmp_path, "a", block=0, done=100, tokens=1000, seconds=10.0, all=100, all_tokens=1000)  # not written anew yet
    note(tmp_path, "b", block=2, done=30, tokens=300, seconds=3.0, all=60, all_tokens=600)
    (tmp_path / notes.FOLDER / "c.json").write_text("")
    assert watch.look() == notes.UnderWay("130 of 320 pairs, 100 tokens a second, 19 s left", 0.5)
    note(tmp_path, "a", block=1, done=20, tokens=200, seconds=2.0, all=100, all_tokens=1000)
    words = (
        "150 of 347 pairs, 200 tokens a second, 10 s left"  # two at work; of the fourth block as many a row as of three
    )
    assert watch.look() == notes.UnderWay(words, 0.7)


def test_a_bounded_round_does_not_say_how_many_pairs_there_will_be(tmp_path):
    watch = Watch("score rest", str(tmp_path), [block(0, 40)])
    note(tmp_path, "a", block=0, done=5, tokens=50)
    assert watch.look() == notes.UnderWay("5 pairs", 0)


def test_notes_of_an_earlier_round_say_nothing_of_this_one(tmp_path, clock):
    note(tmp_path, "a", block=1, done=10, tokens=100, seconds=1.0, all=10, all_tokens=100)
    clock.seconds += 600
    watch = Watch("score rest", str(tmp_path), [block(0, 40), block(1, 40)])
    assert watch.look().words == "no pair is computed yet"
    note(tmp_path, "b", block=0, done=100, tokens=1000, seconds=10.0, all=400, all_tokens=4000)
    assert watch.look() == notes.UnderWay("100 of 800 pairs, 100 tokens a second, 70 s left", 0.25)
    note(tmp_path, "a", block=1, done=100, tokens=1000, seconds=10.0, all=400, all_tokens=4000)
    assert watch.look() == notes.UnderWay("200 of 800 pairs, 200 tokens a second, 30 s left", 0.5)


def test_a_block_that_its_scorer_has_left_counts_before_its_record_comes(tmp_path):
    watch = Watch("score", str(tmp_path), [block(number, 40) for number in range(4)])
    note(tmp_path, "a", block=0, done=300, tokens=3600, seconds=36.0, all=400, all_tokens=4000)
    assert watch.look().words == "300 of 1,600 pairs, 100 tokens a second, 2.1 min left"
    note(tmp_path, "a", block=1, done=10, tokens=200, seconds=2.0, all=400, all_tokens=4000)
    for _ in range(2):
        assert watch.look().words == "410 of 1,600 pairs, 100 tokens a second, 2.0 min left"
    watch.finish(scored(0, 400, 4000, 40.0))
    assert watch.look().words == "410 of 1,600 pairs, 100 tokens a second, 2.0 min left"
