SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINNED := $(BIN)/python -m pip install -qq --no-compile --no-deps --disable-pip-version-check
# Not compiled: what only development imports, in processes that can keep what they compile. Confined ones can not.
LEFT := site-packages/(.*/tests?|databricks|fontTools|matplotlib|mlflow|moto|pip|setuptools)/
ARGS ?=
# The whole suite runs on several processes, which a part of it is too short for.
PARALLEL := --numprocesses=auto --dist=loadgroup --durations=40

.PHONY: help install quickstart serve test check format bench up passwords down lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make .venv with everything in it (a second call takes no time)
	@:

# torch first, by itself: where an index offers a CPU build, pip takes it, and the lock then changes nothing about it.
# The lock names all there is, so two processes take half of it each; whether all of it fits together is asked in the end.
# Compiled at last, by one process for each core: pip has one for all. As for pip, what can't be compiled stays source.
# Our own packages too: the processes that check uploads are confined, and could never keep what they compile.
$(STAMP): pyproject.toml requirements.lock
	@echo "Installing into $(VENV) (the first time takes a few minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check "$$(grep -i '^torch==' requirements.lock)"
	@for half in 0 1; do $(PINNED) -r <(grep '^[a-z0-9]' requirements.lock | awk "NR % 2 == $$half") & \
		halves+=("$$!"); done; failed=0; for half in "$${halves[@]}"; do wait "$$half" || failed=1; done; exit "$$failed"
	@$(PINNED) -e .
	@$(BIN)/python -m pip -qq check
	@$(BIN)/python -m compileall -qq -j 0 -x '$(LEFT)' $(VENV)/lib app worker sandbox zeropoint || true
	@touch $@

quickstart: $(STAMP) ## train a small CNN, quantize it through the service with curl, check the result
	@$(BIN)/python examples/quickstart.py

serve: $(STAMP) ## API, worker and Redis on this machine, until Ctrl-C (ARGS="--port 8000 --data data")
	@$(BIN)/zeropoint serve $(ARGS)

test: $(STAMP) ## the whole test suite (ARGS="-k name" for a part, on one process)
	@$(BIN)/python -m pytest $(or $(ARGS),$(PARALLEL))

check: $(STAMP) ## linter, formatter, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## run every script in benchmarks/
	@shopt -s nullglob; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)" $(ARGS); done

up: passwords ## one host: docker compose with PostgreSQL and Redis
	@docker compose up --build --detach --wait

# Those of the two servers that nobody outside the compose network reaches, where .env has none yet.
passwords:
	@umask 077; touch .env; for name in POSTGRES_PASSWORD REDIS_PASSWORD; do grep -q "^$$name=." .env || \
		echo "$$name=$$($(PYTHON) -c 'import secrets; print(secrets.token_hex(24))')" >> .env; done

down: ## stop what `make up` started (volumes stay)
	@docker compose down

lock: $(STAMP) ## write requirements.lock anew from pyproject.toml
	@$(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --no-header --unsafe-package pip \
		--no-emit-index-url --no-emit-find-links --no-emit-options --output-file requirements.lock pyproject.toml
	@sed -i -e 's/+cpu$$//' -e '1i # Every version that was tested together. Written by `make lock`.' requirements.lock
