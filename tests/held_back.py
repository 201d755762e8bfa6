"""`tss` whose scorers wait in the middle of a run, so that something can happen to them there, however slow a machine is:

    python held_back.py TOKENS PARTS GO run CONFIG

Blocks are of so many TOKENS, so that a small corpus has several for scorers to share. Once PARTS parts of the store are there,
a scorer waits after each one that it has written, until there is a file GO.
"""

import sys
import time
from pathlib import Path

from pipeline import cli
from pipeline.retrieval import blocks
from pipeline.scoring import score_block


def held_back(parts: int, go: Path) -> type:
    """An actor that scores, for workers to take as it is: they cannot import this module."""

    class ScoreBlock:
        def __init__(self, **settings):
            from pipeline.scoring.score_block import ScoreBlock  # the worker's own

            self._actor, self._store = ScoreBlock(**settings), Path(settings["kept"]["scorer"])

        def __call__(self, batch):
            from pipeline.storage import files

            write = files.write

            def write_and_wait(path, data):
                write(path, data)
                if not path.startswith(str(self._store)):
                    return  # a mark of what is tried: an actor that has started again comes as far as its next part
                while len(list(self._store.rglob("[!.]*.parquet"))) >= parts and not go.exists():
                    time.sleep(0.2)

            files.write = write_and_wait
            try:
                return self._actor(batch)
            finally:
                files.write = write

    return ScoreBlock


if __name__ == "__main__":
    blocks.BLOCK_TOKENS = int(sys.argv[1])  # only drivers ask for it
    score_block.ScoreBlock = held_back(int(sys.argv[2]), Path(sys.argv[3]))
    raise SystemExit(cli.main(sys.argv[4:]))
