# Needs CPython 3.11+ with venv, make and gcc; everything else comes from the package registries.
#
#   make demo     adapt a small real vision-language model twice and write a report that compares the two
#   make test     run the tests
#   make check    lint, formatting, types
#   make evidence turn the committed records into tables and figures; trains nothing
#   make docs     build the documentation into site/
#   make setup    only make the environment
#
# PYTHON=python3.12      which Python to make the environment with
# TORCH_INDEX=URL        a further index for torch, such as https://download.pytorch.org/whl/cpu
# VENV=DIR, OUT=DIR      where the environment and the demo's output go

PYTHON ?= python3
VENV ?= .venv
OUT ?= outputs/demo-$(shell date +%Y%m%d-%H%M%S)
TORCH_INDEX ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test check evidence docs

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -12

setup: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m textanchor.fetch
	$(BIN)/textanchor demo --out $(OUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --durations 10

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

evidence: $(VENV)/.installed
	$(BIN)/python docs/make_evidence.py
	$(BIN)/python docs/make_front_page.py

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

# Each stamp is written last, so that an interrupted step is done again and a finished one is not.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "textanchor needs Python 3.11 or newer, '$(PYTHON)' is not: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "Installing into $(VENV) from the package registry:"
	@echo "  torch: a CPU wheel is about 200 MB. Linux wheels of PyPI bring CUDA libraries along (several GB);"
	@echo "  to avoid these: make ... TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "  the other libraries: about 150 MB"
	@echo "Model and data files, fetched once into the user's cache when first needed (TEXTANCHOR_CACHE overrides):"
	@echo "  language model 93 MB, vision tower 17 MB, easy-VQA 3 MB"
	$(INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV) from the package registry: about 150 MB"
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing the documentation tools into $(VENV) from the package registry: about 20 MB"
	$(INSTALL) --editable '.[docs]'
	@touch $@
