# make demo   set up all that is needed, then run a local swarm
# make test   set up all that is needed, then pass the tests
#
# For a GPU: make setup TORCH=torch   (takes PyTorch's default build, several gigabytes)

PYTHON ?= $(shell for v in 3.11 3.12 3.13; do command -v python$$v && break; done || echo python3)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types check bench bench-gpu soak setup clean

demo: $(READY)
	@$(BIN)/lazaretto demo

test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(READY)
	@$(BIN)/mypy

check: lint types test

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks

bench-gpu: $(READY)
	@$(BIN)/python -m tests.benchmarks.gpu
	@test -z "$(CORPUS)" || $(BIN)/python -m tests.benchmarks.gpu_experiment --corpus "$(CORPUS)" --seconds 60 300
	@test -z "$(CORPUS)" || $(BIN)/python -m tests.benchmarks.gpu_lanes --corpus "$(CORPUS)" || test $$? -eq 2

soak: $(READY)
	@$(BIN)/python -m tests.soak
	@$(BIN)/python -m pytest -m soak -s

setup: $(READY)

$(READY): pyproject.toml .ci/system-packages
	@PYTHON="$(PYTHON)" sh .ci/system-packages
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "setup: installing PyTorch ($(TORCH)) and the project into $(VENV); a few minutes, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@$(BIN)/python -m compileall -q $(VENV)/lib node swarm training verification >/dev/null || true
	@$(BIN)/python -c "from training.availability import probe; probe()"  # measures what it carries, once
	@touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
