# Every target sets up what it needs; a second call finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Test processes; each computes on one thread.
WORKERS ?= auto
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test quality world clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## virtual environment with the pinned packages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

demo: setup  ## train the age slider on tiny_faces, measure it, print the figures and the path of the strip
	$(BIN)/python -m experiments.demo

test: setup  ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile

quality: setup  ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

world: setup  ## rebuild assets/tiny_faces from nothing, in stages that resume
	$(BIN)/python -m experiments.tiny_faces.build

clean:  ## remove what trainings and builds wrote (outputs/, build/, .cache/)
	rm -rf outputs build .cache
