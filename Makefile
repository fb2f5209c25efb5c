# The whole project, from a fresh clone: `make run` and `make test` need Python >= 3.11 and make, nothing else.
# Another Python: `PYTHON=python3.12 make run` (after `make clean`, if there is a .venv already).

PYTHON ?= python3
ARGS ?=
CPUS ?= # those of test-cpus; all that this machine can stand in for if there is none

VENV := .venv
BIN := $(VENV)/bin
PARALLEL := -n auto --maxprocesses 4 --dist loadfile # each test file in one of as many processes as cores, four at most
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-cpus test-races lint bench gpu gpu-check gpu-race docs docs-links notebooks clean

help: ## list what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

run: $(VENV)/.run ## set up, train on handwritten digits and on the spiral; pictures and model go to out/
	@mkdir -p out
	@$(BIN)/nnx train digits --save out/digits.safetensors --overwrite --plot out/digits.png
	@echo
	@$(BIN)/nnx train spiral --save out/spiral.safetensors --overwrite --plot out/spiral.png
	@echo
	@echo "Open out/digits.png (how it went, and what was misread) and out/spiral.png (the decision boundary)."

test: $(VENV)/.test ## set up, run the tests; ARGS="-k dense -x" goes to pytest
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

test-cpus: $(VENV)/.test ## run what depends on rounding as other processors would; CPUS="Haswell Nehalem"
	@$(BIN)/python tests/cpus.py $(CPUS) $(ARGS)

test-races: $(VENV)/.test ## look for races between threads of the GPU's kernels, by g++'s thread sanitizer
	@$(BIN)/python -m pytest -q $(PARALLEL) --dist load tests/race_cuda.py $(ARGS)

lint: $(VENV)/.test ## ruff and mypy
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary tests/user_code.py
	@if [ -x $(BIN)/pyright ]; then $(BIN)/pyright tests/user_code.py; fi
	@echo "lint: nothing to say"

bench: $(VENV)/.bench ## set up, compare the throughput of the backends; ARGS="--all -k steps" goes to pytest
	@$(BIN)/python -m pytest -q bench --benchmark-columns=min,median,iqr,rounds --benchmark-max-time=0.3 $(ARGS)

# Not through .venv: where there is a GPU, CuPy is usually in the machine's own Python, and there may be no network.
gpu: ## gpu-check and gpu-race; ARGS="--results DIR" says where the reports go, else to bench/results
	@"$(PYTHON)" bench/gpu.py $(ARGS)

gpu-check: ## prove nnx on this machine's GPU, in under nine minutes
	@"$(PYTHON)" bench/gpu.py check $(ARGS)

gpu-race: ## measure it against PyTorch and JAX, in under nine minutes
	@"$(PYTHON)" bench/gpu.py race $(ARGS)

docs: $(VENV)/.docs ## set up, build the site into out/site, warnings as errors, and check its links
	@$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs out/site
	@$(BIN)/python docs/_site/links.py out/site
	@echo "docs: open out/site/index.html"

docs-links: $(VENV)/.docs ## check the links to other sites, by the network
	@$(BIN)/python -m sphinx -E -q -b linkcheck docs out/links

notebooks: $(VENV)/.docs ## make the notebooks of examples/ from its scripts
	@$(BIN)/python docs/_site/notebooks.py

clean: ## remove all that make made, .venv and out/ included
	@rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Set-up. A stamp is newer than what it was installed from. Never run pip twice at once, as make -j would for the tests
# and the site: make .venv/.test and .venv/.docs first, as .ci/run does. Hatchling, which builds the package, is installed
# before it, so that its version is pinned too.

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "nnx needs Python 3.11 or newer, and there is no '$(PYTHON)' here." \
		"Name one: PYTHON=/path/to/python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nnx needs Python 3.11 or newer, and" \
		"'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name another: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make a virtual environment." \
		"On Debian and Ubuntu: sudo apt install python3-venv (python3.12-venv for a python3.12)" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "The $(VENV) that is" \
		"here has no pip, or a Python older than 3.11. Remove it first: make clean" >&2; exit 1; }
	@echo "Installing nnx into $(VENV): a minute the first time, then only when its requirements change"
	@$(PIP) install -c constraints.txt hatchling
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[cpu,train,plots]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "Installing what the tests need"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@echo "Installing what the benchmarks need"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	@echo "Installing what the site needs"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@
