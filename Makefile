# Everything starts here: `make run`, `make test`. Needs Python 3.11 or newer and, for the first call, a package index.
PYTHON ?= python3
VENV := .venv
# A file of exact versions, e.g. CONSTRAINTS=constraints.txt; empty takes the newest that pyproject.toml allows.
CONSTRAINTS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test processes. Each imports torch (about 1 GB of memory) and uses one thread.
WORKERS ?= 2
# Per cent of our lines that the quick tests must run.
COVERAGE ?= 90
# More arguments for `make run` and for pytest, e.g. make run ARGS="loss=stic" or make test PYTEST="-k views".
ARGS ?=
PYTEST ?=

# Tests with coverage; then its table, and an error below $(COVERAGE).
SEEN := .coverage.json
COVERED = OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --json --out $(SEEN) -m pytest -n $(WORKERS) --dist loadfile
SHOWN = $(BIN)/python -m slipcover --merge $(SEEN) --out $(SEEN) --json --fail-under $(COVERAGE)
# What `make test-quick` runs.
QUICK := tests/augment tests/records tests/preference tests/lightning_modules/test_objectives.py tests/reports/test_results.py \
  tests/reports/test_run_log.py tests/reports/test_comparison.py tests/test_rooms.py tests/test_safe_code.py

.DEFAULT_GOAL := help
.PHONY: help install run quick lint format test test-quick test-full faults audit docs site gpu pictures clean clean-all

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv with everything in it (once; again only when pyproject.toml changes)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

run: $(STAMP)  ## align the built-in model with itself: pairs, training, before/after table, report
	$(BIN)/python run.py method=seva aug.noise_steps=500 $(ARGS)

quick: $(STAMP)  ## the same, small: about a minute
	$(BIN)/python run.py experiment=quick $(ARGS)

lint: $(STAMP)  ## formatting, linting, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint  ## lint and all quick tests, with coverage
	$(COVERED) -m 'not slow' $(PYTEST)
	@$(SHOWN)

test-quick: $(STAMP)  ## for the inner loop: formulas, formats, records, reports' numbers, imports; no fit, no process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not slow' -n $(WORKERS) --dist loadfile $(QUICK) $(PYTEST)

test-full: lint  ## all tests, the slow ones too
	$(COVERED) $(PYTEST)
	@$(SHOWN)

faults: $(STAMP)  ## inject every fault, record what came of it, write the table of docs/reliability.md (goes on where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.table $(ARGS)

audit: $(STAMP)  ## known vulnerabilities of the installed packages (asks the package index's advisories)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/python -m tests.audit $(BIN)/uv

docs: $(STAMP)  ## write the parts of docs/ that are made from the code
	$(BIN)/python docs/make_reference.py

site: $(STAMP)  ## the documentation as a site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gpu: $(STAMP)  ## the first hour on a GPU: is it right, how fast is a step, what do the alternatives cost (no download)
	$(BIN)/python benchmarks/gpu.py $(ARGS)

pictures: $(STAMP)  ## make the pictures of README.md, docs/sweeps.md and docs/comparing.md anew (nine runs; needs a Chromium)
	$(BIN)/python docs/make_pictures.py

clean:  ## remove caches of tools (not the environment, not the runs)
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis $(SEEN) build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean  ## remove the environment too
	rm -rf $(VENV)
