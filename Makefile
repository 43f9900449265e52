# Two commands do everything on a fresh machine: `make repro` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test paper setup lint clean

repro: setup            ## both stages on the embedded default, then the tables
	@dvc repro
	@cat results/tables.md

test: setup lint        ## every check, the real language model included
	@pytest

paper: PARAMS := --params params.paper.yaml
paper: setup            ## the paper's tables: 11 data sets below data/, CLIP ViT-B/16, Llama 3; needs a GPU and the hub
	@pipeline doctor $(PARAMS)
	@pipeline ingest $(PARAMS)
	@pipeline generate-prompts $(PARAMS)
	@pipeline embed-text $(PARAMS)
	@pipeline embed-images $(PARAMS)
	@trainer run $(PARAMS) --results results/paper

setup:                  ## make or refresh .venv; nothing to do takes a moment
	@$(PYTHON) install/venv.py
	@test -d .dvc || $(BIN)/dvc init --quiet

lint: setup             ## ruff and mypy
	@ruff check .
	@ruff format --check .
	@mypy

clean:                  ## remove the environment, not the stores
	rm -rf .venv
