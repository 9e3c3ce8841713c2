# Everything that is done to this project, by name. `make` lists the targets.
#
# Targets make the environments that they need, and remake them only when pyproject.toml or the
# constraints change. With an environment of your own, `make test VENV=path/to/it` installs nothing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY        ?= $(shell command -v python3.11 || command -v python3)
VENV      ?= .venv
JOBS      ?= 1
BACKEND   ?=
ARGS      ?=
PIP_FLAGS ?=

BIN      := $(VENV)/bin
BACKENDS := $(or $(BACKEND),jax tensorflow torch)
ONE      := $(or $(firstword $(BACKEND)),jax)
RUN       = PYTHONPATH=src:. KERAS_BACKEND=$(ONE) TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python

# An environment that was named from outside is used as it is.
ifeq ($(origin VENV),file)
READY := .venv/.stamp
endif

, := ,

# $(call make-venv,directory,constraints,what to install)
define make-venv
@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: say which with PY=...")'
$(PY) -m venv $(1)
$(1)/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c $(2) $(3)
@touch $(1)/.stamp
endef

##@ Try it

.PHONY: demo
demo: .venv-demo/.stamp ## Run examples/demo.py in an environment of its own (JAX only)
	KERAS_BACKEND=jax .venv-demo/bin/python examples/demo.py $(ARGS)

##@ Check it

.PHONY: test
test: $(READY) ## Run the tests on all backends; BACKEND=torch for one, JOBS=2 for two processes, ARGS='-k pop' for pytest
	@PYTHONPATH=src:. $(BIN)/python -m tools.run_tests --backends "$(BACKENDS)" --jobs $(JOBS) -- $(ARGS)

.PHONY: test-min
test-min: .venv-min/.stamp ## Run the tests on the oldest Keras that is supported (JAX; BACKEND="jax torch" for two)
	@PYTHONPATH=src:. .venv-min/bin/python -m tools.run_tests --backends "$(or $(BACKEND),jax)" --jobs $(JOBS) -- $(ARGS)

.PHONY: zoo
zoo: $(READY) ## Check all published architectures, the large ones too; BACKEND=jax, ARGS=--light
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(RUN) -m zoo $(ARGS)

.PHONY: lint
lint: $(READY) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(READY) ## Check types
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: bench
bench: $(READY) ## Run the benchmarks; BACKEND=jax
	$(RUN) -m benchmarks $(ARGS)

.PHONY: studies
studies: $(READY) ## Run the studies, in minutes; BACKEND=jax, ARGS=--quick to see that they run
	@for study in studies/*.py; do echo "=== $$study"; $(RUN) $$study $(ARGS); done

##@ Make it

.PHONY: format
format: $(READY) ## Rewrite style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(READY) ## Regenerate the generated pages
	$(RUN) -m tools.docs $(ARGS)

.PHONY: wheel
wheel: $(READY) ## Build dist/*.tar.gz and dist/*.whl
	rm -rf dist
	$(BIN)/python -m build --outdir dist

.PHONY: check-wheel
check-wheel: wheel ## Build the wheel, install it in an environment of its own, and use it there
	rm -rf .venv-wheel
	$(PY) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints-dev.txt "$$(echo dist/resect-*.whl)[jax]"
	.venv-wheel/bin/python -I tools/check_wheel.py

.PHONY: clean
clean: ## Remove what was built, and caches
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +

.PHONY: clean-venvs
clean-venvs: ## Remove the environments
	rm -rf .venv .venv-demo .venv-min .venv-wheel

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nPY=python3.12 names another interpreter, PIP_FLAGS=... is passed to pip.\n'

.venv/.stamp: pyproject.toml constraints-dev.txt
	$(call make-venv,.venv,constraints-dev.txt,-e '.[dev]')

.venv-demo/.stamp: pyproject.toml constraints-dev.txt
	$(call make-venv,.venv-demo,constraints-dev.txt,-e '.[jax]' scikit-learn)

.venv-min/.stamp: pyproject.toml constraints-min.txt
	$(call make-venv,.venv-min,constraints-min.txt,-e '.[jax$(,)tensorflow$(,)torch$(,)test]')
