# Airfreight. `make` alone prints what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# Debian's Python when it is there: the one the pinned wheels were tried with.
BOOTSTRAP := $(shell command -v /usr/bin/python3.11 || command -v python3.11 || command -v python3)
PYTHON := .venv/bin/python
MODEL ?= acme/pong
CLUSTER ?= embedded
BENCH_GIB ?= 1
BENCH_FOUR_GIB ?= $(BENCH_GIB)
BENCH_RUNS ?= 5
BENCH_CASE_RUNS ?= $(BENCH_RUNS)
BENCH_OCI_GIB ?= 0.5
BENCH_PODS_GIB ?= 0.5
BENCH_PODS_RUNS ?= 3
PYTEST := $(PYTHON) -m pytest -p no:cacheprovider

##@ Use

demo: setup ## Everything up, one model delivered through Airflow's REST API, its answer shown (MODEL=owner/name, CLUSTER=current)
	@$(PYTHON) -m devcluster.demo --model '$(MODEL)' --cluster '$(CLUSTER)'

ui: setup ## Airflow with the DAGs and the trigger form, without a cluster; Ctrl-C ends it
	@$(PYTHON) -m devcluster.airflow ui

down: setup ## Stop and remove the embedded cluster and its Airflow; the caches stay
	@$(PYTHON) -m devcluster down

clean: setup ## `down`, and remove the caches (12 GiB)
	@$(PYTHON) -m devcluster clean

doctor: setup ## Check the current cluster for what Airfreight needs
	@.venv/bin/airfreight doctor

##@ Test

test: setup ## Lint, unit, integration and end-to-end tests, with minutes per part; 44 minutes, and on a fresh machine the build of the cluster goes on meanwhile
	@$(PYTHON) -m tests.run

test-full: setup ## `test`, and the slow ones: gates, releases, windows, egress, delivery modes, crashes, set-up on a bare PATH
	@$(PYTHON) -m tests.run --full

unit: setup ## Unit tests alone, about two minutes
	@$(PYTEST) -n auto tests/unit

integration: setup ## Against real MinIO, kube-apiserver with KServe admission, Airflow's API server
	@$(PYTHON) -m devcluster up && $(PYTEST) tests/integration

e2e: setup ## DAG runs on the embedded cluster through REST
	@$(PYTHON) -m devcluster up && $(PYTEST) tests/e2e

bench: setup ## Airfreight beside hf, boto3, aws and rclone, same bytes and servers; 20 GiB of disk (BENCH_GIB=1, BENCH_RUNS=5)
	@$(PYTHON) -m benchmarks --gib '$(BENCH_GIB)' --four-gib '$(BENCH_FOUR_GIB)' --runs '$(BENCH_RUNS)' --case-runs '$(BENCH_CASE_RUNS)'

bench-oci: setup ## Images: Airfreight beside buildah, olot, modctl and oras, same files and registry (BENCH_OCI_GIB=0.5, BENCH_RUNS=5)
	@$(PYTHON) -m benchmarks.oci --gib '$(BENCH_OCI_GIB)' --runs '$(BENCH_RUNS)' --case-runs '$(BENCH_CASE_RUNS)'

bench-pods: setup ## From InferenceService to Ready on the embedded cluster, by delivery mode, cold and warm (BENCH_PODS_GIB=0.5, BENCH_PODS_RUNS=3)
	@$(PYTHON) -m benchmarks.oci.pod_start --gib '$(BENCH_PODS_GIB)' --runs '$(BENCH_PODS_RUNS)'

gpu-check: setup ## The validation against a real OpenAI-compatible server on a GPU, where one is at hand (AIRFREIGHT_GPU_CHECK_URL, or vLLM or transformers here)
	@$(PYTHON) -m devcluster.gpucheck

lint: setup ## ruff with the Airflow rules, and mypy --strict
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

format: setup ## Lay the code out and mend what ruff can mend
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

##@ Embedded cluster

cluster-up: setup ## Bring the embedded cluster up (the first time builds it, about 12 minutes)
	@$(PYTHON) -m devcluster up

cluster-status: setup ## What runs
	@$(PYTHON) -m devcluster status

cluster-logs: setup ## The last lines of every process's log (NAME=kubelet for one)
	@$(PYTHON) -m devcluster logs $(NAME)

cluster-preflight: setup ## What `cluster-up` would do to this machine, and whether it can
	@$(PYTHON) -m devcluster preflight

kubectl: setup ## kubectl as administrator: make kubectl ARGS="get pods -A"
	@$(PYTHON) -m devcluster kubectl $(ARGS)

##@ Upkeep

setup: ## The project's Python environment in .venv, from the hashed requirements
	@$(BOOTSTRAP) -m devcluster.environment

requirements: setup ## Pin the requirements*.in files into requirements*.txt, with hashes
	@$(PYTHON) -m devcluster.requirements

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo ui down clean doctor test test-full unit integration e2e bench bench-oci bench-pods gpu-check lint format cluster-up cluster-status cluster-logs \
	cluster-preflight kubectl setup requirements help
