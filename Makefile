# The front door. `make demo` and `make test` set up all they need; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
SEEDS ?= 1..2000
BIN := .venv/bin
PACKAGES := $(dir $(wildcard libs/*/pyproject.toml services/*/pyproject.toml simulators/pyproject.toml deploy/local/pyproject.toml tools/pyproject.toml tests/simulation/pyproject.toml))
SOURCES := libs services simulators deploy/local tools tests conftest.py
STAMP := .venv/.installed

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with pinned dependencies and the crossdock command

$(STAMP): requirements/dev.txt $(addsuffix pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "crossdock: Python 3.11 or newer is needed; install it or say which: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setup: virtual environment and pinned dependencies (about a minute, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ./,$(PACKAGES))
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Run the whole backbone on 300 orders and print what became of them
	@$(BIN)/crossdock demo

.PHONY: chaos
chaos: $(STAMP) ## Kill, freeze and cut off the backbone's parts under load, then audit
	@$(BIN)/crossdock chaos

.PHONY: test
test: $(STAMP) lint types imports contracts ## Lint, types, import rules, contracts, 2,000 simulated histories and every test
	@$(BIN)/crossdock simulate --seeds 1..2000 --fresh
	@$(BIN)/python -m pytest

.PHONY: simulate
simulate: $(STAMP) ## Play histories full of faults under a seed each, and audit every one (SEEDS=1..2000)
	@$(BIN)/crossdock simulate --seeds $(SEEDS)

.PHONY: fmt
fmt: $(STAMP) ## Format the code
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

.PHONY: lint
lint: $(STAMP) ## Check format and lint rules
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/ruff check --quiet $(SOURCES)

.PHONY: types
types: $(STAMP) ## Check types, strictly
	@$(BIN)/mypy $(foreach package,$(PACKAGES),$(wildcard $(package)crossdock_*))

.PHONY: imports
imports: $(STAMP) ## Check who may import whom
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

.PHONY: contracts
contracts: $(STAMP) ## Check the event contracts, offline
	@$(BIN)/crossdock schemas check

.PHONY: up
up: $(STAMP) ## Start Kafka and the schema registry on this machine
	@$(BIN)/crossdock up
	@$(BIN)/crossdock schemas register
	@$(BIN)/crossdock topics apply

.PHONY: down
down: $(STAMP) ## Stop them
	@$(BIN)/crossdock down

.PHONY: lock
lock: $(STAMP) ## Pin the dependencies anew, with hashes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@cd requirements && for name in runtime dev; do \
	  ../$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	    --python-version 3.11 $$name.in -o $$name.txt; done

.PHONY: clean
clean: ## Delete everything that was made here
	rm -rf .venv .local .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
