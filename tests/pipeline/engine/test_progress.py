"""What is shown of stages under way."""

import threading

from pipeline.engine import progress
from pipeline.engine.progress import Reporter, UnderWay


def test_a_stage_whose_units_take_long_says_what_there_is_of_them(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.01)
    looked, broken = threading.Event(), [OSError("not now")]

    def look():
        if broken:
            raise broken.pop()
        looked.set()
        return UnderWay("7 pairs stored", 0.5)

    with Reporter().stage("score", 2, "blocks", look=look):
        assert looked.wait(20)
    shown = capsys.readouterr().err
    assert "score        0 of 2 blocks, 7 pairs stored so far" in shown and "in 0." in shown
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
