# The one vocabulary for people, README and CI. `make` alone lists the targets.

PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db

HOST ?= 127.0.0.1
PORT ?= 5000
UI_PORT ?= 5001
FORCE ?=
FROM ?=
export REASON ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env data run test lint format serve promote rollback history ui bench growth clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.made ## make the environment in .venv with the exact pins

$(VENV)/.made: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	    { echo "$(PYTHON) is not a Python 3.11: install one, or give PYTHON=path"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

data: env ## acquire and validate the default reviews into data/imdb.csv
	python -m data.ingest $(ARGS)

run: env ## data, train, gate, register, promote, and one real answer over HTTP (ARGS='-P limit=3000')
	mlflow run . --env-manager local $(ARGS)
	python -m inference.smoke

test: env ## all tests that need no container
	python -m pytest -n 2 --dist worksteal $(ARGS)

lint: env ## ruff (lint, format) and mypy
	ruff check .
	ruff format --check .
	mypy .

format: env ## let ruff mend what it can
	ruff check --fix .
	ruff format .

serve: env ## serve Production with mlflow models serve (PORT=5000, HOST=127.0.0.1)
	python -m inference.serve --host $(HOST) --port $(PORT)

promote: env ## promote through the gate (VERSION=n; FORCE=1 passes it by)
	@test -n "$(VERSION)" || { echo "say which: make promote VERSION=n ('make history' lists them)"; exit 2; }
	python -m training.promote --version '$(VERSION)' $(if $(filter 1 yes true,$(FORCE)),--force yes)

rollback: env ## back to the previous Production version (FROM=n makes a retry harmless, REASON='...')
	python -m training.rollback $(if $(FROM),--from '$(FROM)') --reason "$$REASON"

history: env ## every version, and who was Production, when and why
	@python -m registry.history

ui: env ## the MLflow UI on the project's store (UI_PORT=5001)
	@case '$(MLFLOW_TRACKING_URI)' in http*) echo "MLFLOW_TRACKING_URI is a server: open $(MLFLOW_TRACKING_URI)"; exit 2;; esac
	mlflow server --backend-store-uri '$(MLFLOW_TRACKING_URI)' --default-artifact-root '$(CURDIR)/mlruns' \
	    --host $(HOST) --port $(UI_PORT)

bench: .venv-bench/.made .venv-bench-mlserver/.made ## measure us and our peers into docs/benchmarks (ARGS='--quick')
	.venv-bench/bin/python -m bench.main $(ARGS)

growth: .venv-bench/.made ## measure training from 5,000 to 200,000 rows into docs/benchmarks
	.venv-bench/bin/python -m bench.growth $(ARGS)

.venv-bench/.made: bench/requirements.txt requirements.txt
.venv-bench-mlserver/.made: bench/requirements-mlserver.txt requirements.txt
.venv-bench/.made .venv-bench-mlserver/.made:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: ## remove the environments and caches; keeps data, runs and the registry
	rm -rf $(VENV) .venv-bench .venv-bench-mlserver .mypy_cache .pytest_cache .ruff_cache
	rm -rf */__pycache__ tests/*/__pycache__
