# `make demo` and `make test` build what they need. PYTHON names the interpreter for a new .venv.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out/demo
SOURCES := $(shell find datasets recon enhance pipelines src -type f -not -name '*.pyc' -not -path '*.egg-info*' 2>/dev/null)

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/splatmend demo --out $(OUT)

test: .venv/.installed
	$(BIN)/python -m pytest -q

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml -p splatmend

.venv/.locked: requirements.lock tools/setup.sh
	PYTHON=$(PYTHON) sh tools/setup.sh

# Tests and type checkers see the installed package, as users do; a stale build folder would smuggle deleted files into it.
.venv/.installed: .venv/.locked pyproject.toml $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation --force-reinstall .
	rm -rf build src/*.egg-info
	touch $@

clean:
	rm -rf .venv build out
