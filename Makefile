# make check [MODEL=...]   the main job: verdicts on a model, by default the real 135M one
# make test                all tests that this machine can run
# make sweep               rounding schemes on the real model: docs/quantization.md, its figure and its baseline
# make docs                the site, strictly, in build/site; what its pages show is run first
# make gallery             the reports of the gallery, anew
# make coverage            branches that all tests reach, combined over the workers
# make lowest              the tests that need no extra, with the oldest versions that are allowed
# make lint                ruff, mypy, pyright, the wings (import-linter), and what checks the workflows
PYTHON ?= python3
VENV ?= .venv
MODEL ?= smollm2-135m-instruct-q4_1
BIN := $(VENV)/bin

.PHONY: check test sweep docs gallery coverage lowest without-extras lint install

check: install
	$(BIN)/superweight check "$(MODEL)"

# Two workers; all tests of one model go to one of them, which loads it once.
test: $(VENV)/.builds
	$(BIN)/python -m pytest -n 2 --dist loadgroup

SWEPT := smollm2-135m-instruct-q4_1

sweep: install
	$(BIN)/superweight sweep $(SWEPT) --page docs/quantization.md \
		--json tests/claims/baselines/$(SWEPT)/cpu-float32/sweep.json

# A link or an anchor that leads nowhere, a public name without a docstring, an example or an output
# of the tutorial that is not what its command prints: each is red.
docs: $(VENV)/.docs
	$(BIN)/python -m pytest -q tests/api tests/docs -m "not slow and not checkpoint"
	$(BIN)/python -m tools.tutorial --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gallery: install
	$(BIN)/python -m tools.gallery

coverage: $(VENV)/.builds
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=90 --include="harness/superweight/cli/*"
	$(BIN)/coverage report --fail-under=90 --include="harness/superweight/pytest_plugin/*,harness/pytest_superweight.py"
	$(BIN)/coverage report --fail-under=90 --include="harness/superweight/api.py,harness/superweight/checkpoints/*"

# An environment of its own beside the other; torch of that age brings its CUDA libraries from PyPI.
lowest:
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --python build/lowest/bin/python --resolution lowest-direct -e .
	$(MAKE) without-extras PYTHON=build/lowest/bin/python

# Of these the hermetic tests ask for nothing that an extra brings; the lanes are of families that the
# oldest transformers does not have.
WITHOUT_EXTRAS := tests/core tests/api tests/detection tests/cli --ignore tests/detection/test_lanes.py

without-extras:
	$(PYTHON) -m pytest -m "not checkpoint and not gpu and not slow" $(WITHOUT_EXTRAS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/api/consumer.py
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python tests/api/consumer.py
	$(BIN)/lint-imports
	$(BIN)/deptry harness
	$(BIN)/typos
	$(BIN)/zizmor --offline --quiet .github action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

install: $(VENV)/.installed

# What the tests of quantised builds, of packed forms and adapters, and of zero-shot tasks need, and what drives a browser over the
# report's page; `make check` does without. Where there is no browser (Debian: apt-get install
# chromium) those tests skip.
$(VENV)/.builds: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,builds,adapters,forms,eval,browser,llamacpp,docs,fleet]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,docs]"
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $@
