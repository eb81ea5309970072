# The daily commands. Everything that they need is installed by the two stamps below, from package registries alone.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# `make chaos MINUTES=30 SEED=7`, `make soak MINUTES=60`
SEED ?= 1
# `make e2e PHONE=real`
PHONE ?= virtual
E2E_virtual := pytest tests/e2e
E2E_real := acceptance

PYTHON_STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed
MERMAID := .make/docs/mermaid-11.12.0.tgz

.PHONY: help setup demo unit fuzz test e2e e2ematrix up check chaos chaosshort fleet soak bench benchgate benchqueries benchconsole clean image audit sbom mutants docs \
  baileys lock types console-smoke screenshots wheel wheel-smoke docs-commands filetypes

help: ## what can be done here
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(PYTHON_STAMP) $(NODE_STAMP) ## install what is missing (instant when nothing changed)

PIP := $(BIN)/python -m pip --disable-pip-version-check
# Of pip's output: the large downloads as they come, and the steps. What goes wrong is on stderr.
TELL := sed -u -nE -e 's/^ *(Downloading|Using cached) ([^ ]+) (\([0-9.]+ MB\)).*/setup:   \2 \3/p' \
  -e 's/^Installing collected.*/setup:   unpacking (half a minute)/p'
$(PYTHON_STAMP): pyproject.toml requirements-dev.lock scripts/require-python.sh
	@bash scripts/require-python.sh $(PYTHON)
	@echo "setup: Python packages into $(VENV), each checked by its hash (a minute or two the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes --requirement requirements-dev.lock 2> >(grep -v ^WARNING >&2) | $(TELL)
	@echo "setup: the worker itself into $(VENV)"
	@$(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python scripts/link_node.py
	@touch $@

$(NODE_STAMP): package.json package-lock.json sidecar-baileys/package.json simulator/package.json | $(PYTHON_STAMP)
	@echo "setup: Node packages into node_modules"
	@$(BIN)/npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

demo: setup ## the main job against our own virtual phone: no account, no phone, no configuration
	@$(BIN)/wa-worker demo

unit: setup ## the rules alone, in half a minute
	@$(BIN)/python -m pytest -n 2 tests/unit

fuzz: setup ## documents that hypothesis makes up
	@$(BIN)/python -m pytest -n 2 tests/fuzz

# Many tests mostly wait, so three files are at work at a time on two cores. A browser needs both for itself.
test: setup ## every test but the chaos run and the wheel (wheel-smoke) and the console in a browser (console-smoke)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/chaos \
	  --ignore tests/console/test_browser.py --ignore tests/console/test_example.py --ignore tests/wheel tests

# Its processes are killed on purpose: that a Popen is collected before its child is reaped is no finding there.
chaosshort: setup ## what CI runs of it: every kind of fault once, and a sabotage for each check
	@$(BIN)/python -m pytest tests/chaos -W ignore::pytest.PytestUnraisableExceptionWarning

e2e: setup ## the end-to-end tests with the virtual phone; PHONE=real: the acceptance list with yours
	@$(BIN)/python -m $(or $(E2E_$(PHONE)),$(error PHONE is virtual or real))

# Where reports of the real server conflict, both are played.
e2ematrix: setup ## the end-to-end tests on a kind virtual phone, and on one as unkind as the real server is reported to be
	@for realism in kind default; do WA_PHONE_REALISM=$$realism $(BIN)/python -m pytest tests/e2e || exit 1; done

up: setup ## the real thing: scan the QR in the terminal with your phone
	@$(BIN)/wa-worker up

check: setup ## linters and type checkers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@node_modules/.bin/tsc --noEmit
	@$(BIN)/sqlfluff lint --disable-progress-bar supabase/schemas supabase/migrations supabase/optional

chaos: setup ## MINUTES=3 SEED=1: kill everything at random and look for a lost message
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),3) --seed $(SEED)

fleet: setup ## ACCOUNTS=12 SEED=1: hosts that share accounts; one killed, one paused, one added, one drained
	@$(BIN)/python -m tests.fleet --accounts $(or $(ACCOUNTS),12) --seed $(SEED)

soak: setup ## MINUTES=15 and six to warm up: closes of every kind, again and again; flat memory, nothing leaked
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),15) --seed $(SEED)

bench: setup ## everything side by side, ten minutes; BENCH=quick: two
	@$(BIN)/python -m bench $(if $(filter quick,$(BENCH)),--quick)

benchgate: setup ## what the frame gate costs
	@node bench/gate.js

benchqueries: setup ## what an app's queries cost at 1,000,000 messages, and what they cost each commit
	@$(BIN)/python -m bench.queries

benchconsole: setup ## what the console's pages cost at 1,000,000 messages, and what its viewers cost the worker
	@$(BIN)/python -m bench.console

image: ## the container image, with docker or else buildah; prints its size
	@bash scripts/image.sh

audit: setup ## known vulnerabilities in what we build on; NO_ANSWER=allow: pass without the advisory services
	@$(BIN)/python scripts/supply_chain.py audit $(if $(filter allow,$(NO_ANSWER)),--allow-no-answer)

sbom: setup ## a bill of materials into .make/sbom, and docs/licenses.md
	@$(BIN)/python scripts/supply_chain.py sbom

mutants: setup ## MINUTES=20: change the named rules in a thousand small ways; a test must notice each
	@MINUTES=$(or $(MINUTES),20) bash scripts/mutants.sh

docs: setup $(MERMAID) ## the documentation site, into .make/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "docs: open .make/site/index.html"

docs-commands: setup ## run what the pages tell people to type, in a fresh clone; which and why: scripts/docs_commands.toml
	@$(BIN)/python -m scripts.docs_commands

# Mermaid draws the pictures in the reader's browser. It comes with the site: nothing is fetched from elsewhere.
$(MERMAID): | $(PYTHON_STAMP)
	@mkdir -p $(@D)
	@cd $(@D) && $(CURDIR)/$(BIN)/npm pack --silent $(subst -1,@1,$(basename $(@F))) >/dev/null
	@tar -xzf $@ -C $(@D) --strip-components=2 package/dist/mermaid.min.js

COMPILE := $(BIN)/uv pip compile --quiet pyproject.toml --generate-hashes --python-version 3.11 \
  --no-annotate --custom-compile-command "make lock" --no-emit-index-url --native-tls $(LOCK_OPTIONS)
# requirements-dev.lock is everything; requirements.lock is the part of it that runs, for the image and the audit.
lock: $(PYTHON_STAMP) ## after a change of pyproject.toml: both Python locks; newer versions with LOCK_OPTIONS=--upgrade
	@$(COMPILE) --universal --extra dev --output-file requirements-dev.lock >/dev/null
	@echo 'setuptools>=77' | $(COMPILE) - --python-platform linux --constraint requirements-dev.lock \
	  --output-file requirements.lock >/dev/null
	@grep -c == requirements-dev.lock requirements.lock

types: setup ## after a change of the schema: supabase/types, for those who write apps
	@$(BIN)/python -m scripts.make_types

# What other libraries say of the corpus. They are installed for this alone, into a place of their own.
FILETYPES := .make/filetypes
filetypes: setup ## after a change of the corpus or of the rules for types: docs/file-types.md
	@test -x $(FILETYPES)/bin/python || $(PYTHON) -m venv $(FILETYPES)
	@$(FILETYPES)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
	  --requirement scripts/file_types/requirements.txt
	@$(FILETYPES)/bin/python -m scripts.file_types.ask > .make/answers.json && mv .make/answers.json scripts/file_types/
	@$(BIN)/python -m scripts.file_types.page

LOCK_ONLY := --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund --loglevel=error
WORKSPACES := --workspace sidecar-baileys --workspace simulator
# `npm install` alone would give each workspace a Baileys of its own beside the old one.
baileys: $(PYTHON_STAMP) ## VERSION=7.0.0-rc15: take another Baileys; says what of it we miss (docs/operations.md)
	@test -n "$(VERSION)" || { echo "make baileys VERSION=…, for example 7.0.0-rc15"; exit 2; }
	@$(BIN)/npm pkg set dependencies.baileys=$(VERSION) $(WORKSPACES)
	@$(BIN)/npm install $(LOCK_ONLY) && $(BIN)/npm dedupe $(LOCK_ONLY)
	@$(MAKE) --no-print-directory setup
	@node --test sidecar-baileys/test/internals.test.js sidecar-baileys/test/curve.test.js

console-smoke: setup ## console and examples/web-app in a real browser; installs Chromium where it can, else says what is missing
	@bash scripts/chromium.sh && $(BIN)/python -m pytest tests/console/test_browser.py tests/console/test_example.py

screenshots: setup ## the pictures of docs/console.md, made anew
	@bash scripts/chromium.sh && $(BIN)/python -m tests.console.pictures

# `build/` keeps files of an earlier build, which would go into this one's wheel.
WHEELS ?= .make/wheels
wheel: setup ## the package for pipx and uvx, into .make/wheels
	@rm -rf build && mkdir -p $(WHEELS) && rm -f $(WHEELS)/*.whl
	@$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation \
	  --wheel-dir $(WHEELS) . && rm -rf build
	@ls $(WHEELS)/*.whl

wheel-smoke: setup ## build the wheel, install it into an empty environment, and run the demo there
	@$(BIN)/python -m pytest tests/wheel

clean: ## remove what setup and the tests made (your ./data stays)
	rm -rf $(VENV) node_modules sidecar-baileys/node_modules simulator/node_modules
	rm -rf .make .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
