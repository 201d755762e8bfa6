"""`python -m pipeline` is the console script `tss`."""

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
