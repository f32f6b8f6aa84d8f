# Every target does its own set-up from nothing: python3 with venv and pip is all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA := $(wildcard ../shared/data)
export FOURFOLD_DATA ?= $(DATA)

.PHONY: help setup demo test slow check format bench docs clean

help:
	@echo "make demo    install, train a GPT for three minutes on the embedded text, write its report"
	@echo "make test    install, run the whole test suite (make slow: the long tests too)"
	@echo "make check   formatting, lint, types, floors"
	@echo "make bench   ours and the peers side by side; results in benchmarks/results/"
	@echo "make docs    the generated pages: README's table, docs/systems/"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch -e ".[test,check]"
	touch $@

setup: $(VENV)/installed

demo: setup
	$(BIN)/fourfold fit gpt --minutes 3
	@echo "Type next:  $(BIN)/fourfold generate last \"The \" --tokens 200"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks.generate speed
	for name in linear tables overhead gan gpt_train lstm serve page word2vec; do $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: setup
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
