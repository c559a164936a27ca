# Every target sets up its own environment first; Python, pip and make are all it takes.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.jacobound-ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SOURCES := src tests examples campaign $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench soundness matrix dist

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

test: $(READY)  ## run all tests
	@$(PYTEST) -n $(WORKERS)

check: $(READY)  ## lint, formatting, types and house rules
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(PYTEST) -q tests/test_house.py

format: $(READY)  ## mend lint and formatting where that is automatic
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(READY)  ## run the benchmarks
	@$(BIN)/python -m benchmarks

soundness: $(READY)  ## attack every bound: exact cases by the million, damaged files, deliberate mistakes (hours)
	@OMP_NUM_THREADS=1 $(BIN)/python -m campaign --primitives 1000000 --exact 100000 --graphs 10000 --exchange 500 \
		--door 5000 --files 100000 --mutants

matrix:  ## the oldest and the newest torch under every installed Python from 3.11 to 3.13
	@.ci/matrix

dist: $(READY)  ## build both archives, and run a slice of the tests from the unpacked one
	@.ci/dist $(BIN)/python
