# The same words as CI: .ci/run is the README's test command followed by `check`.
PYTHON ?= .venv/bin/python

.PHONY: check test format

check:
	.ci/check $(PYTHON)

test:
	$(PYTHON) -m pytest

format:
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format
	$(PYTHON) docs/generate.py
