# make sandbox   measure all scenarios for real on this machine
# make test      all tests that need no cluster
# make cluster   a real Kubernetes with KubeVirt on this machine (tests/cluster/README.md)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUITE ?=
CLUSTER ?= tests/cluster
# The image: what builds it, its name, and the images it is built from (the defaults are in Containerfile).
BUILDER ?= $(shell for p in podman buildah; do command -v $$p && break; done)
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' stuntime/__init__.py)
COMMIT = $(shell git rev-parse HEAD)
IMAGE ?= quay.io/stuntime/stuntime:$(VERSION)
TARGET ?= full
IMAGE_ARGS = $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(OC),--build-arg OC=$(OC))

.PHONY: help install sandbox test test-unit test-page test-conformance test-sandbox test-ssh cluster cluster-stop test-cluster bench lint clean

help:
	@echo "make sandbox   measure all 12 scenarios on this machine, for real (more options: SUITE='--repeat 3')"
	@echo "make test      lint, unit tests, the report page in a browser, the YAML before upstream's types, real migrations"
	@echo "make cluster   a three-node Kubernetes with KubeVirt on this machine, as root; make cluster-stop ends it"
	@echo "make test-cluster  start it, run the tests that need one, stop it"
	@echo "make image     the image of the pods, IMAGE=$(IMAGE), by podman or buildah"
	@echo "make lock      renew image/requirements.lock from pyproject.toml"
	@echo "make git-pipeline  renew pipelines/stuntime-git.yaml from pipelines/stuntime.yaml"
	@echo "make bench     how fast logs are analysed and results aggregated, and 12 scenarios measured on a simulated cluster"
	@echo "make lint      ruff and mypy"
	@echo "make install   the distribution's packages and the virtual environment, no more"
	@echo "make clean     remove what make has made, not what was measured"

install: $(VENV)/ready

# The recipe asks for packages each time: it is quick where they are there, and the machine may have changed.
$(VENV)/ready: pyproject.toml stuntime/__init__.py | packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .[test]
	touch $@

.PHONY: packages
packages:
	@PYTHON=$(PYTHON) sh stuntime/sandbox/install.sh

sandbox: install
	$(BIN)/stuntime suite $(SUITE)

test: lint test-unit test-page test-conformance test-image test-sandbox test-ssh

test-unit: install
	$(BIN)/pytest tests/unit

test-page: install
	@sh tests/page/install.sh
	$(BIN)/pytest tests/page

test-conformance: install
	$(BIN)/pytest tests/conformance

test-sandbox: install
	$(BIN)/pytest tests/sandbox

cluster: install
	$(BIN)/python -m tests.cluster up

cluster-stop: install
	$(BIN)/python -m tests.cluster down

test-cluster: install
	@sh tests/cluster/guest/install.sh
	@sh tests/image/install.sh
	$(BIN)/python -m tests.cluster up && $(BIN)/pytest $(CLUSTER); code=$$?; $(BIN)/python -m tests.cluster down; exit $$code

test-ssh: install
	@sh tests/ssh/install.sh
	$(BIN)/pytest tests/ssh

.PHONY: image lock test-image
image:
	$(BUILDER) build --format oci --target $(TARGET) --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) \
	    $(IMAGE_ARGS) --tag $(IMAGE) .

# With each file's digest, for every Python and machine that has wheels; `make lock UPGRADE=--upgrade` takes the newest.
lock: install
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" $(UPGRADE) pyproject.toml --output-file image/requirements.lock

# The pipeline with tasks from git, of the one whose tasks are installed.
.PHONY: git-pipeline
git-pipeline: install
	$(BIN)/python -m tests.conformance.from_git

test-image: install
	@sh tests/image/install.sh
	$(BIN)/pytest tests/image

bench: install
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.many_results
	$(BIN)/python -m tests.benchmarks.makespan

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
