# make demo   set everything up and run the main jobs on real data
# make test   set everything up and run the tests
# make docs   build the documentation as a site
# make help   list all targets

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint style types check docs test-containers faults bench bench-bounded bench-peers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.demo  ## set everything up and run the main jobs on real data
	@echo "starting Kafka (the first time it is downloaded: 45 MB) …"
	@$(BIN)/anabranch demo

# Tests of the real Kafka mostly wait, so six processes run them on two cores, with one broker. Those of agents run on
# Kafka in memory first, which finds most faults within a minute or two; on the real Kafka one of each group of
# parametrised siblings follows, and of files marked `memory_suffices` only the tests that the mark names.
# Python keeps its bytecode even where the environment forbids it: else each of the processes that tests and benches start,
# some hundreds, would compile anabranch and the packages that it imports again.
test test-containers faults bench bench-bounded bench-peers: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.collected  ## set everything up and run the tests: those of agents on Kafka in memory, then all on the real one
	ANABRANCH_TEST_BROKER=memory $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/agents
	ANABRANCH_TEST_AFTER_MEMORY=1 $(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

lint: style types  ## check style and types

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test  ## everything that a change has to pass

docs: $(VENV)/.docs  ## build the documentation as a site, in build/docs, and check its links
	@$(BIN)/python docs/site/build.py

test-containers: $(VENV)/.test  ## run the tests against a broker in a container
	$(BIN)/python deploy/kafka-image.py anabranch/kafka:test
	ANABRANCH_TEST_BROKER=container ANABRANCH_TEST_IMAGE=anabranch/kafka:test $(BIN)/python -m pytest

faults: $(VENV)/.test  ## run 1,000 simulated worlds with faults, and find all broken engines; inject faults into workers and brokers for 200 rounds and audit the totals; then damaged files, random flows, table programs and windows; SEED=… repeats a run, ROUNDS=… and FUZZ_S=… shorten it
	$(BIN)/python tests/faults/worlds.py $(if $(SEED),--first $(SEED))
	$(BIN)/python -m pytest tests/faults -m rounds
	$(BIN)/python tests/faults/main.py --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))
	ANABRANCH_FUZZ_S=$(or $(FUZZ_S),300) $(BIN)/python -m pytest tests/replay/test_fuzz_files.py --timeout 900
	ANABRANCH_FUZZ_S=$(or $(FUZZ_S),300) ANABRANCH_FUZZ_SEED=$(or $(SEED),$(shell date +%s)) \
	  $(BIN)/python -m pytest tests/agents/test_random_flows.py tests/agents/test_random_tables.py \
	  tests/testing/test_random_windows.py tests/testing/test_random_windowed_tables.py
	ANABRANCH_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest tests/agents/test_columnar_flows.py tests/agents/test_window_columns.py --timeout 900

bench: $(VENV)/.bench  ## measure rates, and ratios to librdkafka and stock Faust
	$(BIN)/python tests/bench/main.py
	$(BIN)/python tests/bench/replaying.py --large 2
	$(BIN)/python tests/bench/archiving.py
	$(BIN)/python tests/bench/restoring.py
	$(BIN)/python tests/bench/recovering.py

bench-bounded: $(VENV)/.bench  ## measure bounded runs of 20,000,000 rows, from file to result file, plain and packed
	$(BIN)/python tests/bench/bounded.py

# Peers are installed once, into .bench; peers that cannot be installed are skipped.
bench-peers: $(VENV)/.bench  ## measure PySpark, DuckDB, Quix Streams, Kafka Streams and Flink beside anabranch; CHART=docs/bench.svg draws a chart
	$(BIN)/python tests/bench/comparing.py $(if $(CHART),--chart $(CHART))

clean:  ## remove all files that make creates
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
	@echo "installing anabranch and its packages into $(VENV): this takes a minute or two …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

# Packages are compiled as far as they are imported: pip would compile 60 MB, of which the tests use a fourth.
$(VENV)/.test: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[test]'
	@touch $@

# One process collects all tests and with that compiles them and what they import. Else each process of pytest-xdist would
# do so at the same time: collecting takes 14 s of processor time in a new clone, and 6 s afterwards.
$(VENV)/.collected: $(VENV)/.test
	-@ANABRANCH_TEST_BROKER=memory $(BIN)/python -m pytest --collect-only -qq >/dev/null
	@touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	@touch $@
