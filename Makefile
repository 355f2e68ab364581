# umbel. Each target sets up what it needs, so `make test` and `make demo` work on a fresh machine;
# continuous integration calls these targets and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CODE   := $(wildcard src tests bench)
# More options for pytest: make test PYTEST="-k lease -x"
PYTEST ?=
# How many processes run the tests: make test PROCESSES=0 runs them in pytest's own
PROCESSES ?= 2
# How long to soak: make soak MINUTES=60
MINUTES ?= 15

.DEFAULT_GOAL := help
.PHONY: help setup servers demo test test-fast check soak bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with umbel and all that its development needs

servers: ## install Redis, RabbitMQ and PostgreSQL where they are missing (apt, root or sudo)
	@sh tests/install_servers.sh

demo: $(STAMP) ## analyse Python's standard library with tasks on several worker processes
	@$(BIN)/umbel demo

test: $(STAMP) servers ## run every test, with real servers
	$(BIN)/pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST)

test-fast: $(STAMP) ## run the tests that need no server
	$(BIN)/pytest -m "not servers" $(PYTEST)

check: $(STAMP) ## lint, formatting, types, and the shape of the tree
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy $(CODE)
	$(BIN)/pyright $(CODE)
	$(BIN)/pytest -q tests/unit/test_architecture.py

soak: $(STAMP) ## run workers at full rate in a storm of signals, for MINUTES (15)
	$(BIN)/python -m tests.system.soak --minutes $(MINUTES)

bench: $(STAMP) servers ## measure umbel beside its peers and a bare loop
	$(BIN)/python -m bench

docs: $(STAMP) ## build docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -W --keep-going --quiet -b html docs docs/_build/html

clean: ## remove what the other targets made, .venv too
	rm -rf $(VENV) docs/_build build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "umbel needs Python 3.11 or newer; make PYTHON=python3.12 ... names another" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/pip install -qq --editable '.[dev]'
	@touch $@
