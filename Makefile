# One environment in .venv; `make demo` and `make test` need nothing but Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without the compiled modules beside them, which it forbids to write, torch alone takes seconds longer to import, at each start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := --constraint deploy/constraints.txt --editable '.[test]'

.PHONY: demo test lint bench chaos clean

demo: $(STAMP)
	$(BIN)/anomaly-daemon demo

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

# With Java 17 and Maven, nearly two hours: daemons and brokers are broken, then planted defects must be found, then records, files, disks and bounds,
# then a tenth of the soak.
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos --mutants
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.benchmarks.soak --records 430000

$(STAMP): pyproject.toml deploy/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt uv
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python $(INSTALL) \
	    || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
