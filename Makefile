# Each target creates .venv on first use and reuses it. Nothing is installed outside .venv.
#   make demo    the main job on the shipped model; prints the path of the report
#   make test    every test, slow ones included (browser tests skip by name without a Chromium)
#   make check   ruff, mypy, layering      make bench   ratios side by side      make studies   every study, quick
PYTHON ?= python3
# Where to take torch from, for who wants another build: make TORCH_INDEX=https://... demo
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench studies clean

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "headscope needs Python 3.11 or newer; got $$($(PYTHON) --version). Pass PYTHON=python3.12, say." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	touch $@

demo: $(VENV)/.run
	$(BIN)/headscope demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest tests src

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

bench: $(VENV)/.dev
	$(BIN)/python -m bench.run_overhead

studies: $(VENV)/.run
	$(BIN)/headscope study heads --quick --out runs/studies/heads

clean:
	rm -rf $(VENV) runs
