# Every command that people, the README and CI use. `make` alone lists the targets.

PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
# uv installs no bytecode: if Python may not write it either, each command compiles MLflow for ten seconds
export PYTHONDONTWRITEBYTECODE :=
# turn MLflow's usage reports off
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
# docker compose (v2), or docker-compose 1.29 if there is no v2
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

STATE_OPTION = $(if $(STATE),--state '$(STATE)')

.DEFAULT_GOAL := help
.PHONY: help env env-follow env-image env-sign env-s3 env-postgres env-onnx env-deep env-spark env-server lock docs tour pictures data run test test-all lint format score serve stop canary canary-stop up train-docker down logs image image-smoke test-docker mutants fuzz soak audit promote rollback history prune backup ui bench switches growth clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][A-Za-z0-9-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each environment has a file of pins in requirements/, and a marker file in .venv once it is installed. `make run` needs requirements/run.txt
# only; other targets depend on more, as `image: env-image` does. `make lock` compiles the files from pyproject.toml.
EXTRAS := follow image sign s3 postgres onnx deep spark server tour test test-all lint audit
env: $(VENV)/.run ## make the environment in .venv, with what `make run` needs

$(VENV)/.run: requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	    { echo "$(PYTHON) is not Python 3.11: install Python 3.11, or give PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/uv.txt || \
	    echo "uv could not be installed; using pip"
	$(call install,$(VENV),$<)
	@touch $@

env-follow: $(VENV)/.follow ## add what `make serve FOLLOW=1` needs: Prometheus metrics
env-image: $(VENV)/.image ## add what `make image` needs: a bill of materials
env-sign: $(VENV)/.sign ## add what SIGNING_KEY and VERIFYING_KEY need
env-s3: $(VENV)/.s3 ## add what artifacts in S3 need
env-postgres: $(VENV)/.postgres ## add the driver of a store on PostgreSQL
env-onnx: $(VENV)/.onnx ## add what serving deep models needs: ONNX Runtime
env-deep: $(VENV)/.deep ## add what training deep models needs: PyTorch, 1 to 4 GB
env-spark: $(VENV)/.spark ## add Apache Spark; install Java 17 or newer yourself
env-server: $(VENV)/.server ## add what the Docker image has: follow, sign, s3, postgres, onnx
env-test: $(VENV)/.test
env-test-all: $(VENV)/.test-all
env-lint: $(VENV)/.lint
env-tour: $(VENV)/.tour
env-audit: $(VENV)/.audit

$(addprefix $(VENV)/.,$(EXTRAS)): $(VENV)/.%: requirements/%.txt $(VENV)/.run
	$(call install,$(VENV),$<)
	@touch $@

# Install with uv, which is fast. If uv is missing or fails (only pip may know the package index), pip installs the same pins.
define install
@echo "installing $(2) into $(1) ..."
@if command -v uv >/dev/null && uv pip install --quiet --python $(1)/bin/python -r $(2); then :; else \
    $(1)/bin/python -m pip install --quiet --disable-pip-version-check -r $(2); fi
endef

# targets that use the registry need more packages if a signing key is set, or if the store is PostgreSQL
STORE := env $(if $(SIGNING_KEY)$(VERIFYING_KEY),env-sign) $(if $(filter postgresql%,$(MLFLOW_TRACKING_URI)),env-postgres)

LOCK = uv pip compile --quiet --universal --python-version 3.11.7 --annotation-style line --custom-compile-command 'make lock' $(ARGS)

lock: env ## compile the files of pins in requirements/ from pyproject.toml (ARGS=--upgrade updates indirect packages)
	$(LOCK) pyproject.toml $(addprefix --extra ,$(EXTRAS)) -o requirements/all.txt
	$(LOCK) pyproject.toml -c requirements/all.txt -o requirements/run.txt
	@for extra in $(EXTRAS); do echo "requirements/$$extra.txt"; \
	    $(LOCK) pyproject.toml -c requirements/all.txt --extra $$extra -o requirements/$$extra.txt || exit 1; done
	$(LOCK) pyproject.toml --extra bench -o requirements/bench.txt
	$(LOCK) --group bench-mlserver -o requirements/bench-mlserver.txt
	$(LOCK) --group uv -o requirements/uv.txt

data: env ## acquire and validate the default reviews into data/imdb.csv
	python -m data.ingest $(ARGS)

run: $(STORE) ## data, train, gate, register, promote, and one real answer over HTTP (ARGS='-P limit=3000')
	@# the first time, bytecode of what a run imports, and the scorer's loops, are compiled on one core while `mlflow run` starts on another
	@test -e $(VENV)/.compiled || { touch $(VENV)/.compiled; python -c 'import training.main, inference.smoke, mlflow.pyfunc.scoring_server, \
	    sentiment_model.compiled as scorer; scorer.kernels()' >/dev/null 2>&1 & }
	mlflow run . --env-manager local $(ARGS)
	python -m inference.smoke

test: env-test ## fast tests of every package and one end-to-end test, in minutes
	python -m pytest -n 2 --dist loadgroup -m 'not large and not docker' $(ARGS)

test-all: env-test-all ## all tests but those of containers; tests of what is not installed skip
	LIVES=10000 python -m pytest -n 3 --dist loadgroup -m 'not docker' $(ARGS)

test-docker: env-test-all ## tests of images and containers; needs a Docker engine
	python -m pytest -m docker $(ARGS)

mutants: env-test-all ## plant known bugs in a copy, one at a time, and check that tests fail (ARGS='--tier test --only data')
	python -m tests.mutants $(ARGS)

fuzz: env-test ## send generated requests to a real service (REQUESTS=100000; needs HAProxy)
	REQUESTS=$(REQUESTS) python -m pytest -s tests/inference/test_fuzz.py $(ARGS)

soak: env-test ## hold a steady load (DURATION=1800 seconds; needs HAProxy) and check that nothing grows
	DURATION=$(DURATION) python -m pytest -s tests/inference/test_soak.py $(ARGS)

audit: env-audit ## list licenses and known vulnerabilities (from PyPI) of the installed packages
	pip-licenses --from=mixed
	@# --strict: fail if PyPI cannot be asked about a package
	pip-audit --local --strict --progress-spinner off $(ARGS)

lint: env-lint ## ruff (lint, format) and mypy
	ruff check .
	ruff format --check .
	mypy .

format: env-lint ## fix formatting and simple lint errors
	ruff check --fix .
	ruff format .

docs: env ## write the table of parameters in docs/reference.md
	python -m tests.docs

tour: env-tour ## run the notebook docs/tour.ipynb, and keep what it shows
	jupyter execute --inplace docs/tour.ipynb

pictures: env ## take the pictures of the docs again, from the version in Production (needs Chromium)
	python -m docs.images.pictures

score: $(STORE) ## score the texts of files with Production (INPUT=, OUTPUT=; ARGS='--column review --engine spark')
	@test -n '$(INPUT)' -a -n '$(OUTPUT)' || { echo "say what and where to: make score INPUT=reviews.csv OUTPUT=scored.parquet"; exit 2; }
	python -m inference.batch.score --input '$(INPUT)' --output '$(OUTPUT)' $(ARGS)

serve: $(STORE) $(if $(filter 1 yes true,$(FOLLOW)),env-follow) ## serve Production (PORT=5000, HOST=127.0.0.1); FOLLOW=1 also follows promotions and rollbacks (PORT=8000)
ifneq ($(filter 1 yes true,$(FOLLOW)),)
	python -m inference.service.follow --host $(HOST) --port $(or $(PORT),8000) --metrics-port $(METRICS_PORT) $(STATE_OPTION)
else
	python -m inference.serve --host $(HOST) --port $(or $(PORT),5000)
endif

stop: env ## end what make serve FOLLOW=1 started (PORT=8000)
	python -m inference.service.stop --port $(or $(PORT),8000) $(STATE_OPTION)

canary: $(STORE) ## send a share of the requests to a candidate (VERSION=n, PERCENT=10)
	@test -n "$(VERSION)" || { echo "VERSION is required: make canary VERSION=n ('make history' lists them)"; exit 2; }
	python -m inference.service.canary start --version '$(VERSION)' --percent $(PERCENT)

canary-stop: $(STORE) ## send all requests to Production again
	python -m inference.service.canary stop

up: engine ## start the system in containers: registry on port 5000, service on 8000
	@$(COMPOSE) up --detach --build || { \
	    echo "some containers did not start: see above, or run 'make logs'. If a port is in use, give PORT=, MLFLOW_PORT= or METRICS_PORT=. Fix the problem and run 'make up' again, or stop everything with 'make down'"; exit 1; }
	@echo "registry: http://127.0.0.1:$${MLFLOW_PORT:-5000}   service: http://127.0.0.1:$${PORT:-8000}/ready   next: make train-docker"

train-docker: engine ## run the MLproject in a container, into the registry of make up (ARGS='-P limit=3000')
	$(COMPOSE) run --rm train mlflow run . --env-manager local -P out=/data/imdb.csv $(ARGS)

down: engine ## end the containers; the volumes with registry, models and reviews stay
	$(COMPOSE) down

logs: engine ## follow the container logs
	$(COMPOSE) logs --follow --tail=100

image: $(STORE) env-image engine ## the version in Production as an image of its own (IMAGE=name:tag)
	python -m inference.image build '$(IMAGE)'

image-smoke: env-image engine ## start that image without a network and ask it
	python -m inference.image smoke '$(IMAGE)'

promote: $(STORE) ## promote through the gate (VERSION=n; FORCE=1 bypasses it)
	@test -n "$(VERSION)" || { echo "VERSION is required: make promote VERSION=n ('make history' lists them)"; exit 2; }
	python -m training.promote --version '$(VERSION)' $(if $(filter 1 yes true,$(FORCE)),--force yes)

rollback: $(STORE) ## back to the previous Production version (FROM=n makes a retry harmless, REASON='...')
	python -m training.rollback $(if $(FROM),--from '$(FROM)') --reason "$$REASON"

history: $(STORE) ## every version, and who was Production, when and why
	@python -m registry.history

prune: $(STORE) ## delete old versions with their runs and artifacts (KEEP=n newest; Production and the rollback target stay)
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

.venv-bench/.made .venv-bench-mlserver/.made: .venv-%/.made: requirements/%.txt env
	$(PYTHON) -m venv $(@D)
	$(call install,$(@D),$<)
	@touch $@

.PHONY: engine env-test env-test-all env-lint env-audit env-tour
engine:
	@docker info >/dev/null 2>&1 || { \
	    echo "no Docker engine answers: start one, or give its address in DOCKER_HOST; 'make run' and 'make serve' need none"; exit 1; }

clean: ## remove the environments and caches; keeps data, runs and the registry
	rm -rf $(VENV) .venv-bench .venv-bench-mlserver .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
