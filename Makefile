# Every target sets the checkout up first; a second call costs milliseconds.
PYTHON ?= python3
BIN := .venv/bin
# One more than the cores of a small machine: who waits for a process leaves a core idle.
WORKERS ?= 3
# The project's own instance, wherever make is called from; nothing in a test or a run waits on a model hub.
export DAGSTER_HOME := $(CURDIR)/dagster_home
export HF_HUB_OFFLINE := 1
# Where it is set, every one of several hundred sub-processes compiles the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup bench-setup demo dev test test-thorough check schemas reference docs clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup: ## .venv from the lock, the project installed editable
	@$(PYTHON) -m pipelines.setup

bench-setup: ## the peers that benchmarks run beside us
	@$(PYTHON) -m pipelines.setup --bench

demo: ## the whole pipeline on a real corpus: prepare, train, roll out, generate (about 15 minutes on 2 cores)
	@$(PYTHON) -m pipelines.setup --demo
	@$(BIN)/python -m pipelines.demo

dev: ## the Dagster UI on http://127.0.0.1:3000 (HEADRACE_PORT)
	@$(PYTHON) -m pipelines.setup --demo
	@$(BIN)/python -m pipelines.dev

# Files stay whole, for their fixtures' sake, and in their order: those of few but long tests would else come last.
test: setup ## all tests, on three workers (WORKERS)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-thorough: setup ## the properties with fifteen times the examples: hours, before a release or where one is in doubt
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --hypothesis-profile thorough --timeout 7200 -m "not process"

# Room for the type checker's cache: near node's own limit of 4 GB it forgets what it knows, and checks anew.
check: setup ## lint, format, types, import contracts, duplicates
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@NODE_OPTIONS=--max-old-space-size=8192 $(BIN)/basedpyright
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/lint-imports
	@$(BIN)/python tests/architecture/duplicates.py

schemas: setup ## docs/schemas anew, after a change of what a user's file may say or a command prints
	@for kind in $$($(BIN)/headrace schema); do $(BIN)/headrace schema $$kind > docs/schemas/$$kind.schema.json; done

reference: setup ## docs/reference anew, after a change of a key, a command, a tag, a metric or what is in a store
	@$(BIN)/python -m pipelines.reference

docs: setup ## the documentation as a site, build/site/index.html; a dead link fails
	@$(BIN)/zensical build --strict

clean: ## removes state and caches, keeps .venv
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m pipelines.clean; fi
