# The one vocabulary for people, README and CI. `make` alone lists the targets.

PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
# MLflow would tell its makers what is used
export MLFLOW_DISABLE_TELEMETRY ?= true

HOST ?= 127.0.0.1
PORT ?=
METRICS_PORT ?= 8404
UI_PORT ?= 5001
FOLLOW ?=
STATE ?=
VERSION ?=
PERCENT ?= 10
FORCE ?=
KEEP ?=
REQUESTS ?= 100000
DURATION ?= 1800
TO ?= backup.tar
IMAGE ?= sentiment-classifier:latest
FROM ?=
INPUT ?=
OUTPUT ?=
export REASON ?=
ARGS ?=

SWITCH := 1 yes true 0 no false
$(foreach name,FOLLOW FORCE,$(if $(filter-out $(SWITCH),$($(name))),$(error $(name)=$($(name)) is not known; give 1, yes or true, or leave it out)))
# docker compose (v2), or docker-compose 1.29 where that is what there is
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

STATE_OPTION = $(if $(STATE),--state '$(STATE)')

.DEFAULT_GOAL := help
.PHONY: help env env-spark env-deep data run test lint format score serve stop canary canary-stop up train-docker down logs image image-smoke test-docker fuzz soak audit promote rollback history prune backup ui bench switches growth clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.made ## make the environment in .venv with the exact pins

$(VENV)/.made: requirements.txt requirements-onnx.txt requirements-server.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	    { echo "$(PYTHON) is not a Python 3.11: install one, or give PYTHON=path"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

env-spark: $(VENV)/.spark ## add Apache Spark to it, 450 MB, for engine=spark and streams; needs Java 17

$(VENV)/.spark: requirements-spark.txt $(VENV)/.made
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-spark.txt
	@touch $@

env-deep: $(VENV)/.deep ## add PyTorch and Hugging Face transformers to it, 1 to 4 GB, to train model=embedding, transformer or stack

$(VENV)/.deep: requirements-deep.txt $(VENV)/.made
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-deep.txt
	@touch $@

data: env ## acquire and validate the default reviews into data/imdb.csv
	python -m data.ingest $(ARGS)

run: env ## data, train, gate, register, promote, and one real answer over HTTP (ARGS='-P limit=3000')
	mlflow run . --env-manager local $(ARGS)
	python -m inference.smoke

test: env ## all tests that need no container
	python -m pytest -n 2 --dist worksteal -m 'not docker' $(ARGS)

test-docker: env ## the tests of images and containers, with a real engine
	python -m pytest -m docker $(ARGS)

fuzz: env ## generated requests to a real service, so many (REQUESTS=100000)
	REQUESTS=$(REQUESTS) python -m pytest -s tests/inference/test_fuzz.py $(ARGS)

soak: env ## a steady load on a real service, so long (DURATION=1800, in seconds); nothing may grow
	DURATION=$(DURATION) python -m pytest -s tests/inference/test_soak.py $(ARGS)

audit: env ## known vulnerabilities of what is installed, as PyPI knows them, and its licenses
	pip-licenses --from=mixed
	@# --strict: what PyPI could not be asked of is not called harmless
	pip-audit --local --strict --progress-spinner off $(ARGS)

lint: env ## ruff (lint, format) and mypy
	ruff check .
	ruff format --check .
	mypy .

format: env ## let ruff mend what it can
	ruff check --fix .
	ruff format .

score: env ## score the texts of files with Production (INPUT=, OUTPUT=; ARGS='--column review --engine spark')
	@test -n '$(INPUT)' -a -n '$(OUTPUT)' || { echo "say what and where to: make score INPUT=reviews.csv OUTPUT=scored.parquet"; exit 2; }
	python -m inference.score --input '$(INPUT)' --output '$(OUTPUT)' $(ARGS)

serve: env ## serve Production (PORT=5000, HOST=127.0.0.1); FOLLOW=1: and follow promotions and rollbacks (PORT=8000)
ifneq ($(filter 1 yes true,$(FOLLOW)),)
	python -m inference.follow --host $(HOST) --port $(or $(PORT),8000) --metrics-port $(METRICS_PORT) $(STATE_OPTION)
else
	python -m inference.serve --host $(HOST) --port $(or $(PORT),5000)
endif

stop: env ## end what make serve FOLLOW=1 started (PORT=8000)
	python -m inference.stop --port $(or $(PORT),8000) $(STATE_OPTION)

canary: env ## send a share of the requests to a candidate (VERSION=n, PERCENT=10)
	@test -n "$(VERSION)" || { echo "say which: make canary VERSION=n ('make history' lists them)"; exit 2; }
	python -m inference.canary start --version '$(VERSION)' --percent $(PERCENT)

canary-stop: env ## send all requests to Production again
	python -m inference.canary stop

up: engine ## start the system in containers: registry on port 5000, service on 8000
	@$(COMPOSE) up --detach --build || { \
	    echo "not all of it has started: see above, or 'make logs'. An address in use? PORT=, MLFLOW_PORT= and METRICS_PORT= give others. Repeat it when that is mended; 'make down' ends what has started"; exit 1; }
	@echo "registry: http://127.0.0.1:$${MLFLOW_PORT:-5000}   service: http://127.0.0.1:$${PORT:-8000}/ready   next: make train-docker"

train-docker: engine ## run the MLproject in a container, into the registry of make up (ARGS='-P limit=3000')
	$(COMPOSE) run --rm train mlflow run . --env-manager local -P out=/data/imdb.csv $(ARGS)

down: engine ## end the containers; the volumes with registry, models and reviews stay
	$(COMPOSE) down

logs: engine ## what the containers say
	$(COMPOSE) logs --follow --tail=100

image: env engine ## the version in Production as an image of its own (IMAGE=name:tag)
	python -m inference.image build '$(IMAGE)'

image-smoke: env engine ## start that image without a network and ask it
	python -m inference.image smoke '$(IMAGE)'

promote: env ## promote through the gate (VERSION=n; FORCE=1 passes it by)
	@test -n "$(VERSION)" || { echo "say which: make promote VERSION=n ('make history' lists them)"; exit 2; }
	python -m training.promote --version '$(VERSION)' $(if $(filter 1 yes true,$(FORCE)),--force yes)

rollback: env ## back to the previous Production version (FROM=n makes a retry harmless, REASON='...')
	python -m training.rollback $(if $(FROM),--from '$(FROM)') --reason "$$REASON"

history: env ## every version, and who was Production, when and why
	@python -m registry.history

prune: env ## delete old versions with their runs and artifacts (KEEP=n newest; Production and the rollback target stay)
	@test -n "$(KEEP)" || { echo "say how many of the newest versions stay: make prune KEEP=n"; exit 2; }
	python -m registry.prune --keep '$(KEEP)'

backup: env ## copy the project's registry and its artifacts into one archive, while in use (TO=backup.tar)
	@test '$(MLFLOW_TRACKING_URI)' = 'sqlite:///$(CURDIR)/mlflow.db' || { \
	    echo "MLFLOW_TRACKING_URI is $(MLFLOW_TRACKING_URI), not this project's own mlflow.db: docs/deploy.md has the command for a server"; exit 2; }
	@python -m registry.backup . '$(TO)'

ui: env ## the MLflow UI on the project's store (UI_PORT=5001)
	@case '$(MLFLOW_TRACKING_URI)' in http*) echo "MLFLOW_TRACKING_URI is a server: open $(MLFLOW_TRACKING_URI)"; exit 2;; esac
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --backend-store-uri '$(MLFLOW_TRACKING_URI)' --default-artifact-root '$(CURDIR)/mlruns' \
	    --host $(HOST) --port $(UI_PORT)

bench: .venv-bench/.made .venv-bench-mlserver/.made ## measure us and our peers into docs/benchmarks (ARGS='--quick')
	.venv-bench/bin/python -m bench.main $(ARGS)

switches: .venv-bench/.made ## measure promotions, rollbacks and faults under load into docs/benchmarks (ARGS='--quick')
	.venv-bench/bin/python -m bench.switches $(ARGS)

growth: .venv-bench/.made ## measure training from 5,000 to 200,000 rows into docs/benchmarks
	.venv-bench/bin/python -m bench.growth $(ARGS)

.venv-bench/.made: bench/requirements.txt requirements.txt
.venv-bench-mlserver/.made: bench/requirements-mlserver.txt requirements.txt
.venv-bench/.made .venv-bench-mlserver/.made:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.PHONY: engine
engine:
	@docker info >/dev/null 2>&1 || { \
	    echo "no Docker engine answers: start one, or give its address in DOCKER_HOST; 'make run' and 'make serve' need none"; exit 1; }

clean: ## remove the environments and caches; keeps data, runs and the registry
	rm -rf $(VENV) .venv-bench .venv-bench-mlserver .mypy_cache .pytest_cache .ruff_cache
	rm -rf */__pycache__ tests/*/__pycache__
