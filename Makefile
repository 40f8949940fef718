# `make demo` and `make test` create the environment if there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

.PHONY: demo test test-long lint format docs clean help

help:
	@echo "make demo    two seeds of the benchmark, SFT and SOLAR, offline: tables and pictures in outputs/demo (about 6 minutes)"
	@echo "make test    the test suite"
	@echo "make test-long  the test suite and the slow tests (DeepSpeed, kills at random moments)"
	@echo "make lint    ruff and mypy"
	@echo "make format  ruff format and fixes"
	@echo "make docs    the site, in outputs/docs; a warning is an error"
	@echo "make clean   remove the environment and all outputs"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version) if sys.version_info < (3, 11) else None"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing solar-trl and what it needs into $(VENV) (a minute or two) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m solar_trl.benchmark run --arm base --arm sft --arm solar --seeds 100-101 --workers $(JOBS) --output-dir outputs/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-long: $(READY)
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs outputs/docs
	@echo "Open outputs/docs/index.html"

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
