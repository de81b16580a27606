# The commands of this project. `make demo` and `make test` work on a fresh machine with Python 3.11+ and git.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SOURCES := millcert checks pipelines provenance tests bench examples setup.py
# One BLAS thread a process: the same speed on small matrices, and no fight between workers.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-s3 test-runners test-flink test-dataflow check lint types imports format docs bench package clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/.core: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "millcert needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.core ## Run the gate on real digits with planted poison, clean digits, and a tampered file
	$(BIN)/python examples/demo.py --out demo-out

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-runners: $(VENV)/.dev ## Hold the answer on a job service, Prism and 1,000,000 samples (needs Go; minutes)
	scripts/prism/install.sh
	MILLCERT_REQUIRE_PRISM=1 $(BIN)/python -m pytest -s -m "slow or long or not slow" --ignore=tests/runners/test_flink.py tests/runners

test-flink: $(VENV)/.dev ## Hold the answer on a Flink cluster, all workers and kills, 1,000,000 samples (needs Java, Maven; minutes)
	PYTHON=$(BIN)/python scripts/flink/install.sh
	MILLCERT_REQUIRE_FLINK=1 MILLCERT_FLINK_MATRIX=1 $(BIN)/python -m pytest -s -m "slow or long or not slow" tests/runners/test_flink.py

test-dataflow: $(VENV)/.dev ## Hold the job graph that Dataflow would get, without an account (some 500 MB of Google's clients)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,gcp]'
	$(BIN)/python -m pytest -W default tests/pipelines/test_dry_run.py

test-s3: $(VENV)/.dev ## Run the job on a local S3 server (installs boto3 and moto; minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt boto3 'moto[s3]' flask flask-cors
	$(BIN)/python -m pytest -m long tests/pipelines/test_object_store.py

check: lint types imports docs ## Lint, types, import contracts, generated docs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy -p millcert
	$(BIN)/mypy --explicit-package-bases tests bench docs
	MYPYPATH=examples $(BIN)/mypy --explicit-package-bases examples

imports: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev ## Rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Print every figure that README and docs quote (minutes)
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

package: $(VENV)/.dev ## Build the wheel and the source archive
	$(BIN)/python -m build

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist demo-out *.egg-info .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache
