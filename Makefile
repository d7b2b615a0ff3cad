# Two commands set everything up from nothing: `make quickstart` runs the main job, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: quickstart test test-fast test-gpu docs lint format reference clean

quickstart: $(READY)
	$(VENV)/bin/trimtab run quickstart --jobs 2

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup --durations 40

test-fast: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup -m "not real"

# tests of code that takes another path on a GPU: recorded steps, offload, adapters, placement, families, benchmarks
ON_GPU := tests/unit/test_devices.py tests/unit/test_static_step.py tests/unit/test_large.py tests/unit/test_load.py \
	tests/unit/test_guides.py tests/unit/test_lm_head.py tests/unit/test_shared_layers.py tests/unit/test_rewards_scalar.py \
	tests/unit/test_rewards_classifier.py tests/unit/test_visible_devices.py tests/unit/test_benchmark_scripts.py

test-gpu: $(READY)
	@$(VENV)/bin/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('make test-gpu needs a GPU that \
	torch sees (torch.cuda.is_available() is False): run make test here')"
	$(VENV)/bin/python -m pytest -m "not real" $(ON_GPU)

docs: $(READY)
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs build/site
	@echo build/site/index.html

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# docs/reference.md and the JSON schema of experiment files, from the configuration's classes
reference: $(READY)
	$(VENV)/bin/python docs/write_reference.py

# torch first and by its exact version, so that nothing else can pull in another build
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
