# Two commands set everything up from nothing: `make quickstart` runs the main job, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart test test-fast lint format clean

quickstart: $(READY)
	$(VENV)/bin/trimtab run quickstart --jobs 2

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup

test-fast: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not real"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# torch first and by its exact version, so that nothing else can pull in another build
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
