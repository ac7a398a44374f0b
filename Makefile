# `make demo` and `make test` build what they need. PYTHON names the interpreter for a new .venv. `make enhancer VIDEOS="a.mp4 b.mp4"` trains
# the bundled enhancer anew on one GPU, in TRAINING, its pairs made by JOBS processes.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= out/demo
TRAINING ?= out/training
JOBS ?= $(shell nproc)
SOURCES := $(shell find datasets recon enhance pipelines src -type f -not -name '*.pyc' -not -path '*.egg-info*' 2>/dev/null)

.PHONY: demo test lint enhancer clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/splatmend demo --out $(OUT)

test: .venv/.installed
	$(BIN)/python -m pytest -q

enhancer: .venv/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/train_bundled.sh all $(TRAINING) $(JOBS) $(VIDEOS)

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
