"""`tss` with small blocks, so that a small corpus has many for scorers to share: python small_blocks.py TOKENS run CONFIG"""

import sys

from pipeline import cli
from pipeline.retrieval import place

if __name__ == "__main__":
    place.BLOCK_TOKENS = int(sys.argv[1])  # only drivers ask for it
    raise SystemExit(cli.main(sys.argv[2:]))
