# make check [MODEL=...]   the main job: verdicts on a model, by default the real 135M one
# make test                all tests that this machine can run
# make lint                ruff and mypy
PYTHON ?= python3
VENV ?= .venv
MODEL ?= smollm2-135m-instruct-q4_1
BIN := $(VENV)/bin

.PHONY: check test lint install

check: install
	$(BIN)/superweight check "$(MODEL)"

test: $(VENV)/.builds
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

# What the tests of quantised builds read them with, and what drives a browser over the report's page;
# `make check` does without. Where there is no browser (Debian: apt-get install chromium) they skip.
$(VENV)/.builds: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,builds,browser]"
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
