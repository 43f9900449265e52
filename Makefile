# Two commands do everything on a fresh machine: `make repro` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
export DVC_NO_ANALYTICS := 1
unexport PYTHONDONTWRITEBYTECODE  # compiled modules are kept: a process starts in half the time
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro repro-language test paper setup browser lint clean

repro: setup            ## both stages on the embedded default, then the tables
	@dvc repro
	@cat results/tables.md

repro-language: LANGUAGE := --results results/language
repro-language: setup   ## captioning and VQA with the packaged language model, within ten minutes on two cores
	@for name in coco-small caltech101; do pipeline ingest $$name || exit 1; done
	@pipeline import-prompts --dataset caltech101
	@for name in coco-small caltech101; do \
	pipeline embed-text --dataset $$name && pipeline embed-images --dataset $$name || exit 1; done
	@trainer run --dataset caltech101 --protocol few-shot --methods aape --sources written --seeds 1 --no-report $(LANGUAGE)
	@trainer run --dataset coco-small --protocol captioning,vqa --shots 2 $(LANGUAGE) \
	--set evaluation.learnt_on=[results/language/runs/caltech101/checkpoints/aape]

test: setup browser lint ## every check, the real language model included
	@pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

paper: PARAMS := --params params.paper.yaml
paper: setup            ## the paper's tables: 11 data sets below data/, CLIP ViT-B/16, Llama 3; needs a GPU and the hub
	@pipeline doctor $(PARAMS)
	@pipeline ingest $(PARAMS)
	@pipeline generate-prompts $(PARAMS)
	@pipeline embed-text $(PARAMS)
	@pipeline embed-images $(PARAMS)
	@trainer run $(PARAMS) --results results/paper
	@trainer paper-table --results results/paper

setup:                  ## make or refresh .venv; nothing to do takes a moment
	@$(PYTHON) install/venv.py
	@if git rev-parse --git-dir >/dev/null 2>&1; \
	then ! grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local --unset core.no_scm; \
	else grep -qs no_scm .dvc/config.local || $(BIN)/dvc config --local core.no_scm true; fi  # unpacked from a ZIP

browser: setup          ## a headless Chromium for the tests of report.html, where there is none
	@$(PYTHON) install/browser.py

lint: setup             ## ruff and mypy
	@ruff check .
	@ruff format --check .
	@mypy

clean:                  ## remove the environment, not the stores
	rm -rf .venv
