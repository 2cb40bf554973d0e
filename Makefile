PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lint types imports bench bench-prices bench-analytics race chaos lock clean

# Packages are installed without compiling them: what is used is compiled when it is first imported, the rest never.
# Where Python is told to keep no compiled files, every process would compile all it imports again.
unexport PYTHONDONTWRITEBYTECODE

INSTALL := $(BIN)/pip install -qq --disable-pip-version-check --no-compile

run: $(VENV)/.run
	$(BIN)/farthing embedder fetch --optional
	$(BIN)/farthing demo

# Types and layers are two of the tests (tests/arch): so they are looked at while others run.
test: lint $(VENV)/.warm
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

# In a new environment nothing is compiled yet: two processes share the work, where four would each do all of it.
$(VENV)/.warm: $(VENV)/.dev
	$(BIN)/python -m compileall -q -j 2 farthing
	$(BIN)/pytest -qq --collect-only -p no:cacheprovider tests/unit >$(VENV)/warm.log 2>&1 & \
	$(BIN)/pytest -qq --collect-only -p no:cacheprovider --ignore=tests/unit >>$(VENV)/warm.log 2>&1; wait
	touch $@

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

bench-analytics: $(VENV)/.dev
	$(BIN)/python bench/analytics.py --entries $(or $(ENTRIES),1000000) --month $(or $(MONTH),10000000)

race: $(VENV)/.dev
	$(BIN)/python bench/race.py --clients $(or $(CLIENTS),4000) --seed $(or $(SEED),1) $(if $(STORE),--store $(STORE))

chaos: $(VENV)/.dev
	$(BIN)/python bench/chaos.py --faults $(or $(FAULTS),200) --seed $(or $(SEED),1) $(if $(STORE),--store $(STORE)) \
		$(if $(FAULTS)$(STORE),,--write)

bench-prices: $(VENV)/.dev bench/.cache/prices/.ready
	$(BIN)/python bench/prices.py --peers bench/.cache/prices

bench/.cache/prices/.ready:
	$(BIN)/pip install -qq --disable-pip-version-check --target bench/.cache/prices litellm tokencost
	touch $@

lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --strip-extras --extra dev -o requirements-dev.lock pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--allow-unsafe --strip-extras --extra semantic -c requirements-dev.lock -o requirements.lock pyproject.toml

$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(INSTALL) --no-deps -e .
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
