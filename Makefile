# Two commands do all the set-up on a machine with only Python: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/.plain
	mkdir -p demo
	$(BIN)/ms2hs example demo/example.tif --overwrite
	$(BIN)/ms2hs convert demo/example.tif --target enmap -o demo/example_enmap.tif --overwrite

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.plain: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.plain
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[all,test]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist
