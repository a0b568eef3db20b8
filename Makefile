# make demo and make test need nothing but Python >= 3.11, make and git; both set up .venv once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers-installed
AUDIT := $(VENV)/audit
PIP_AUDIT := 2.10.1
DEMO ?= demo
# The tests of a file share what takes long to make, a Ray cluster among it, so a file stays with one process.
PYTEST = $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile
export RAY_USAGE_STATS_ENABLED := 0
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-slow soak mutants lint format typecheck audit bench gpu-check clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

setup: $(STAMP)  ## create .venv and install everything, once

demo: setup  ## the whole path: videos to a trained, searched, swept model
	$(BIN)/gare demo --out $(DEMO)

test: setup  ## unit tests and a few Ray tests
	$(PYTEST) -m "not slow and not soak" $(PYTEST_ARGS)

test-slow: setup  ## the long Ray tests
	$(PYTEST) -m "slow and not soak" $(PYTEST_ARGS)

soak: setup  ## kill and resume at many random points (by hand; takes long)
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

mutants: setup  ## small faults that no quick test would notice (by hand; takes half an hour or more)
	$(BIN)/python tests/mutate.py $(MUTANTS)

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: setup  ## mypy, strict
	$(BIN)/mypy

# In an environment of its own: what looks for flaws is no dependency. Nothing of constraints.txt is installed.
audit: $(AUDIT)/bin/pip-audit  ## known flaws of the pinned packages; needs the network
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
	  || { echo "make audit: there are known flaws, or they could not be asked for; the lines above say which."; exit 1; }

$(AUDIT)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet pip-audit==$(PIP_AUDIT) \
	  || { rm -rf $(AUDIT); echo "make audit needs the network: pip-audit could not be installed."; exit 1; }

# Whatever cannot be installed is named by the benchmark that would use it.
$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]' && touch $@ || true

bench: setup $(PEERS)  ## what is claimed about speed, as ratios in one run; torchcodec needs FFmpeg (apt-get install ffmpeg)
	@for script in benchmarks/*.py; do echo "== $$script"; \
	  OMP_NUM_THREADS=$$($(BIN)/python -c 'import os; print(os.cpu_count())') $(BIN)/python $$script || exit 1; done

gpu-check: setup  ## on one GPU: the same numbers as on a CPU, and the speed of a step, in six minutes
	PYTHONPATH=.:benchmarks $(BIN)/python -m gpu_check $(GPU_CHECK_ARGS)

clean:  ## remove what setup and demo made
	rm -rf $(VENV) $(DEMO) build *.egg-info
