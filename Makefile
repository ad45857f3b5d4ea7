# The same commands for a person and for CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCE := .venv-reference

.PHONY: demo test check format bench up setup reference models clean

demo: $(VENV)/.ready  ## start everything in a temporary folder, recognise two people, print the table
	$(BIN)/facewire demo

up: $(VENV)/.ready  ## run Facewire on this machine: http://127.0.0.1:8080, mqtt://127.0.0.1:1883
	$(BIN)/facewire up

test: $(VENV)/.ready  ## all tests
	$(BIN)/pytest

check: $(VENV)/.ready  ## lint, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready  ## bring the code into its form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

setup: $(VENV)/.ready  ## the development environment in .venv

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove both environments and all caches
	rm -rf $(VENV) $(REFERENCE) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
