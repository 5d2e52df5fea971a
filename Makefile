# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.vissl_swav_installed
METHOD ?= swav
DEVICE ?= cpu
OUT ?= runs/quickstart
# Tests that run at once; a file's stay together.
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUICKSTART_ARGS = --out "$(OUT)" --method $(METHOD) $(if $(DATA),--data "$(DATA)")

.PHONY: quickstart test test-slow test-gpu check format lint types bench install clean

quickstart: $(STAMP)
	$(BIN)/vissl-swav quickstart $(QUICKSTART_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

check: format lint types test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py --device $(DEVICE)

install: $(STAMP)

# VISSL's own pins cannot be met on today's Python: it goes in with --no-deps, and what
# it needs at run time is in our install_requires.
$(STAMP): setup.py constraints.txt vissl_swav.pth
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch torchvision
	$(PIP) install -c constraints.txt -e ".[cpu,dev]"
	$(PIP) install --no-deps vissl==0.1.6
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
