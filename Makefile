# `make demo` and `make test` are all that a new machine needs: Python 3.11 or newer and g++.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := openmm,xtb,distill,dev
# One thread a process: pytest runs one process a core, and tiny students gain nothing from more.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

.PHONY: demo demo-distill test lammps bench lint format types clean help

demo: $(STAMP) ## run a student that comes with the package in OpenMM, and ask its teacher (about a minute)
	$(BIN)/python openmm/demo.py

demo-distill: $(STAMP) ## distil GFN2-xTB into a student of aspirin and run it in OpenMM (about 8 minutes)
	$(BIN)/python openmm/demo_distill.py

test: lint lammps ## ruff, mypy and every test
	COMPACTFF_TEST_LAMMPS=required $(TESTS)

lammps: $(STAMP) ## build a LAMMPS that runs students into the cache, once (about 4 minutes on 2 cores)
	PYTHON=$(BIN)/python lammps/build

bench: $(STAMP) ## measure what the tables show, some four hours; PART=speed takes 6 minutes
	$(BIN)/python -m compactff_md.training.bench $(PART)

lint: $(STAMP) types ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# compactff_md.training and compactff_md.validation lie beside the package, where a static checker does
# not see them: it gets a tree of links in which they are in their place.
types: $(STAMP)
	@rm -rf build/types && mkdir -p build/types/compactff_md
	@ln -s $(addprefix ../../../,$(wildcard compactff_md/*) training validation) build/types/compactff_md
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or newer" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[$(EXTRAS)]"
	@touch $@

clean: ## remove the environment, caches and builds; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15
