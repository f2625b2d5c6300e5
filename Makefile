# make demo   sets up, learns digits in two calls without the images of before, asks, prints where the page lies
# make demo-compare   sets up, compares methods on the bundled digits, prints where the report lies
# make test   sets up, passes the tests
# make docs   sets up, builds the documentation as a site, prints where it lies
# make check  format, lint, types, layers, fast tests
# make bench  speed, as ratios against hand-written loops; AVALANCHE=PYTHON of its environment: beside Avalanche too
# make bench-check  a minute: fails when a step got half as slow again
# make kill   kills every method twenty times at random, compares final weights bit by bit
# make fuzz   reads 10,000 mutated inputs: each must be read rightly or refused in one line
# make golden REASON="..."   writes the golden figures anew
# make index  writes what is said of methods and networks without torch anew
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A folder of data sets beside the project, where there is one; a name that leads nowhere would be an error.
ifneq ($(wildcard ../shared/data),)
export ENGRAM_DATA ?= $(abspath ../shared/data)
endif
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
DEMO   ?= demo

.PHONY: setup demo demo-compare test docs check format golden index bench bench-check kill fuzz clean

PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy
	$(PIP) --editable .
	touch $@

$(VENV)/.ready: $(VENV)/.base
	$(PIP) --editable '.[dev]'
	touch $@

setup: $(VENV)/.ready

demo: $(VENV)/.base
	$(BIN)/python benchmarks/demo.py $(DEMO)

demo-compare: $(VENV)/.base
	$(BIN)/engram compare dgmw finetune joint --data digits --tasks 10 --seeds 0 --alone --out $(DEMO)/compare --overwrite

# Tests start many processes: each would compile all modules where bytecode is not kept.
test: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

docs: $(VENV)/.base
	$(PIP) --editable '.[docs]'
	$(BIN)/python docs/site.py build/docs

check: setup
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow'

format: setup
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --quick $(if $(AVALANCHE),--avalanche $(AVALANCHE))

bench-check: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --check

kill: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --kills 20

fuzz: setup
	cd benchmarks && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m fuzz

index: setup
	$(BIN)/python tests/core/test_index.py

golden: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.golden.regenerate --reason "$(REASON)"

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
