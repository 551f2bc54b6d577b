# make check [MODEL=...]   the main job: verdicts on a model, by default the real 135M one
# make test                all tests that this machine can run
# make sweep               rounding schemes on the real model: docs/quantization.md, its figure and its baseline
# make lint                ruff, mypy, pyright, the wings (import-linter), and what checks the workflows
PYTHON ?= python3
VENV ?= .venv
MODEL ?= smollm2-135m-instruct-q4_1
BIN := $(VENV)/bin

.PHONY: check test sweep lint install

check: install
	$(BIN)/superweight check "$(MODEL)"

# Two workers; all tests of one model go to one of them, which loads it once.
test: $(VENV)/.builds
	$(BIN)/python -m pytest -n 2 --dist loadgroup

SWEPT := smollm2-135m-instruct-q4_1

sweep: install
	$(BIN)/superweight sweep $(SWEPT) --page docs/quantization.md \
		--json tests/claims/baselines/$(SWEPT)/cpu-float32/sweep.json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/api/consumer.py
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python tests/api/consumer.py
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

install: $(VENV)/.installed

# What the tests of quantised builds, of packed forms and adapters, and of zero-shot tasks need, and what drives a browser over the
# report's page; `make check` does without. Where there is no browser (Debian: apt-get install
# chromium) those tests skip.
$(VENV)/.builds: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,builds,adapters,forms,eval,browser,llamacpp]"
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
