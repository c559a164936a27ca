# Every target sets up its own environment first; Python, pip and make are all it takes.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.jacobound-ready
DOCUMENTED := $(VENV)/.jacobound-documented
# Compiled files are kept, whatever the environment says, so that tests are collected in seconds.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
SOURCES := src tests examples campaign docs $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup demo quick test check format docs documented bench house soundness matrix dist

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $@

setup: $(READY)  ## create the environment

demo: $(READY)  ## certify the small network that comes with the package
	@$(BIN)/jacobound demo

quick: $(READY)  ## run one case of every test that takes less than a second (a minute)
	@$(PYTEST) -n $(WORKERS) -q --tier quick

test: $(READY)  ## run all tests, with as many of their cases as it takes to meet every value (minutes)
	@$(PYTEST) -n $(WORKERS)

check: $(READY)  ## lint, formatting, types and house rules
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(PYTEST) -q tests/test_house.py

format: $(READY)  ## mend lint and formatting where that is automatic
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

$(DOCUMENTED): $(READY)
	@echo "Setting up the tools of the documentation (once, a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs,tools]"
	@touch $@

documented: $(DOCUMENTED)

docs: $(DOCUMENTED)  ## run the code of the tutorials and recipes, then build the documentation into docs/_build
	@OMP_NUM_THREADS=1 $(BIN)/python docs/executed.py docs/recipes.md docs/sweeps.md $(filter-out docs/tutorials/index.md,$(wildcard docs/tutorials/*.md))
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

bench: $(READY)  ## run the benchmarks
	@$(BIN)/python -m benchmarks

house: $(READY)  ## print how the source tree is built: sizes, imports, names, what tests reach into
	@$(BIN)/python -m campaign.house

soundness: $(READY)  ## every case of every test, then exact cases by the million, damaged files, mistakes (hours)
	@$(PYTEST) -n $(WORKERS) --tier soundness
	@OMP_NUM_THREADS=1 $(BIN)/python -m campaign --primitives 1000000 --exact 100000 --graphs 10000 --exchange 500 \
		--door 5000 --files 100000 --mutants

matrix:  ## the oldest and the newest torch under every installed Python from 3.11 to 3.13
	@.ci/matrix

dist: $(READY)  ## build both archives, and run a slice of the tests from the unpacked one
	@.ci/dist $(BIN)/python
