PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lint types imports bench bench-prices lock clean

run: $(VENV)/.run
	$(BIN)/farthing demo

test: check
	$(BIN)/pytest

check: lint types imports

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python bench/run.py

bench-prices: $(VENV)/.dev bench/.cache/prices/.ready
	$(BIN)/python bench/prices.py --peers bench/.cache/prices

bench/.cache/prices/.ready:
	$(BIN)/pip install -qq --disable-pip-version-check --target bench/.cache/prices litellm tokencost
	touch $@

lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --strip-extras --extra dev -o requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --strip-extras -c requirements-dev.lock -o requirements.lock pyproject.toml

$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps -e .
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
