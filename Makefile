# make sweep   set-up and the main job          make test   set-up and the whole test suite
# make setup   only the set-up                  make lint   ruff
# make peers   the tests against SAELens, dictionary_learning and sparsify, in an environment of its own

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRITON := 3.9.0

.PHONY: sweep test setup lint peers

sweep: $(READY)
	$(BIN)/monosem sweep jobs/quickstart.yaml $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .

peers: $(READY) .venv-peers/.ready
	$(BIN)/python -m pytest tests/peers $(ARGS) --override-ini addopts=

.venv-peers/.ready:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 sae-lens==6.54.12 \
		einops natsort schedulefree simple-parsing zstandard numba==0.68.1
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		dictionary-learning==0.1.0 eai-sparsify==1.3.3
	touch $@

setup: $(READY)

# torch first and exactly pinned, so that nothing pulls another build of it later.
$(READY): pyproject.toml docker/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint docker/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --constraint docker/constraints.txt
	@# A CUDA build of torch brings the Triton it wants; without one the kernels run in Triton's interpreter.
	[ "$$(uname -s)" != Linux ] || $(BIN)/python -c "import triton" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps triton==$(TRITON)
	touch $@
