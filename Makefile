# Every target does all the set-up it needs: a virtual environment in .venv with the versions of constraints.txt. Once that is
# there, it is checked in no time. On a machine without network, an environment that is up to date is used as it is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: report test lint docs bench clean

# All experiments in their quick form, then the index of their reports.
report: $(VENV)/.installed
	$(BIN)/interp report

# The suite as CI runs it. One thread per worker: two workers with two threads each would only get in each other's way.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not network and not gpu" $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

# The caching benchmark: CPU time of harvesting against a plain Hugging Face forward and TransformerLens's run_with_cache.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/caching.py

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 10) and f"interp needs Python 3.10 or newer, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No venv module here: apt-get install python3-venv, or the like."; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@ $(VENV)/.installed
