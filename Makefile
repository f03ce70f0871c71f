# make sweep   set-up and the main job          make test   set-up and the whole test suite
# make setup   only the set-up                  make lint   ruff

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: sweep test setup lint

sweep: $(READY)
	$(BIN)/monosem sweep jobs/quickstart.yaml $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .

setup: $(READY)

# torch first and exactly pinned, so that nothing pulls another build of it later.
$(READY): pyproject.toml docker/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint docker/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint docker/constraints.txt
	touch $@
