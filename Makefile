# umbel: every target sets up what it needs; CI calls these targets and nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup servers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with umbel and all that its development needs

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("umbel needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

servers: ## install Redis, RabbitMQ and PostgreSQL where they are missing (apt, root or sudo)
	sh tests/install_servers.sh
