# Each target sets up what it needs by itself, in any order. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3
VENV ?= .venv
READY = $(VENV)/.ready
# Two processes, each with a Ray of its own; the tests of a file stay together, as they share what it has made. Files in the
# order of tests/conftest.py: by size, the longest one, which is a single test, would come last and run alone.
TOGETHER = --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test unit check clean

demo: $(READY)
	$(VENV)/bin/tss demo

test: $(READY)
	$(VENV)/bin/python -m pytest $(TOGETHER)

# Without what starts Ray: under a minute.
unit: $(READY)
	$(VENV)/bin/python -m pytest $(TOGETHER) -m "not ray"

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# torch first and by itself: where a CPU build is at hand it is taken, and nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
