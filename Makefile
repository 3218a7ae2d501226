# G3D-ViT. `make demo` and `make test` each do their whole set-up; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
# One process per core; `make test PYTEST_ARGS="-x tests/test_maps.py"` runs a part.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "G3D-ViT needs Python 3.10 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Could not make a virtual environment (on Debian/Ubuntu: apt-get install python3-venv)"; exit 1; }

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing G3D-ViT and the reference model (PyTorch is large: this takes some minutes once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "Installing G3D-ViT with everything its tests use (PyTorch is large: this takes some minutes once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,test]'
	@touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo ## Simulate two runs, classify them, explain them, show the maps
	$(BIN)/g3dvit demo $(DEMO_ARGS)

test: $(VENV)/.installed-test ## Run the whole test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-test ## Style, types, layers and all tests: what a change must pass
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PYTEST_ARGS)

format: $(VENV)/.installed-test ## Format the code
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

clean: ## Remove the environment and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
