# Two commands do all the set-up on a machine with only Python: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# One process for each processor; a process without work takes over tests of another one.
TESTS := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all lint docs clean

demo: $(VENV)/.plain
	$(BIN)/ms2hs demo --overwrite

test: $(VENV)/.test
	$(TESTS) -m "not slow"
	@echo "The slow tests did not run. \`make test-all\` runs all tests."

test-all: $(VENV)/.test
	$(TESTS) -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f docs/site/mkdocs.yml
	@echo "build/site/index.html"

$(VENV)/.plain: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.plain
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[all,test]'
	touch $@

$(VENV)/.docs: $(VENV)/.plain
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
