# make demo   set everything up and run the main jobs on real data
# make test   set everything up and run the tests
# make help   the rest

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint check test-containers faults bench bench-bounded bench-peers clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.demo  ## set everything up and run the main jobs on real data
	@$(BIN)/anabranch demo

# Tests wait more than they compute: two of them at a time, each with a broker of its own.
test: $(VENV)/.test  ## set everything up and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test  ## what a change needs

test-containers: $(VENV)/.test  ## the same tests against a broker in a container
	$(BIN)/python deploy/kafka-image.py anabranch/kafka:test
	ANABRANCH_TEST_BROKER=container ANABRANCH_TEST_IMAGE=anabranch/kafka:test $(BIN)/python -m pytest

faults: $(VENV)/.test  ## 200 rounds of faults against workers and brokers, audited; damaged files; random flows and table programs; SEED=… repeats, ROUNDS=…, FUZZ_S=… for less
	$(BIN)/python tests/faults/main.py --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))
	ANABRANCH_FUZZ_S=$(or $(FUZZ_S),300) $(BIN)/python -m pytest tests/replay/test_fuzz_files.py --timeout 900
	ANABRANCH_FUZZ_S=$(or $(FUZZ_S),300) ANABRANCH_FUZZ_SEED=$(or $(SEED),$(shell date +%s)) \
	  $(BIN)/python -m pytest tests/agents/test_random_flows.py tests/agents/test_random_tables.py

bench: $(VENV)/.bench  ## rates, and ratios to librdkafka and stock Faust, in one run
	$(BIN)/python tests/bench/main.py
	$(BIN)/python tests/bench/replaying.py --large 2
	$(BIN)/python tests/bench/archiving.py
	$(BIN)/python tests/bench/restoring.py
	$(BIN)/python tests/bench/recovering.py

bench-bounded: $(VENV)/.bench  ## bounded runs of 20,000,000 rows, from file to result file, plain and packed
	$(BIN)/python tests/bench/bounded.py

# What peers need is fetched once, into .bench; who cannot be had here is left out.
bench-peers: $(VENV)/.bench  ## PySpark, DuckDB, Quix Streams, Kafka Streams beside it; CHART=docs/bench.svg draws them
	$(BIN)/python tests/bench/comparing.py $(if $(CHART),--chart $(CHART))

clean:  ## remove what make has made
	rm -rf $(VENV) build *.egg-info .anabranch .bench demo .pytest_cache .ruff_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name it: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "error: this Python cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	@echo "setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@touch $@
