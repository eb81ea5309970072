# The daily commands. Everything that they need is installed by the two stamps below, from package registries alone.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# `make chaos MINUTES=30 SEED=7`
MINUTES ?= 3
SEED ?= 1

PYTHON_STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed

.PHONY: help setup demo test e2e up check chaos bench clean

help: ## what can be done here
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(PYTHON_STAMP) $(NODE_STAMP) ## install what is missing (instant when nothing changed)

$(PYTHON_STAMP): pyproject.toml constraints.txt scripts/require-python.sh
	@bash scripts/require-python.sh $(PYTHON)
	@echo "setup: Python packages into $(VENV) (a minute or two the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python scripts/link_node.py
	@touch $@

$(NODE_STAMP): package.json package-lock.json sidecar-baileys/package.json simulator/package.json | $(PYTHON_STAMP)
	@echo "setup: Node packages into node_modules"
	@$(BIN)/npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

demo: setup ## the main job against our own virtual phone: no account, no phone, no configuration
	@$(BIN)/python -m demo

test: setup ## every test: Node, then Python
	@$(BIN)/npm test --workspaces --if-present
	@$(BIN)/python -m pytest

e2e: setup ## the end-to-end tests alone, with the virtual phone as the test phone
	@$(BIN)/python -m pytest tests/e2e

up: setup ## the real thing: scan the QR in the terminal with your phone
	@$(BIN)/wa-worker up

check: setup ## linters and type checkers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@node_modules/.bin/tsc --noEmit
	@$(BIN)/sqlfluff lint --disable-progress-bar supabase/migrations

chaos: setup ## MINUTES=3 SEED=1: kill everything at random and look for a lost message
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

bench: setup ## what the frame gate costs
	@node bench/gate.js

clean: ## remove what setup and the tests made (your ./data stays)
	rm -rf $(VENV) node_modules sidecar-baileys/node_modules simulator/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
