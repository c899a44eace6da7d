# Two commands: `make demo` and `make check`. Both make their own environment in .venv and are quick the second time.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
MINIMAL := .venv-runtime
DEMO := demo
SOURCES := $(shell find oneranker export runtime benchmarks -name '*.py')
# a file's tests stay together and in order: files that take long come first
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GPU_PYTHON := $(if $(wildcard $(RUN)),$(RUN),$(PYTHON))
GPU_FLAGS ?=
BENCH_FLAGS ?=

# CPP=off leaves C++ out of `make check`, CPP=require fails where it would be left out for want of a tool; CPP_FLAGS go to
# runtime/cpp/configure; CPP_INSTALL= keeps it from apt-get
CPP ?= on
CPP_FLAGS ?=
CPP_INSTALL ?= --install
# unless CPP_FLAGS names it, the library of ONNX Runtime comes from an environment: the smaller one, if there is none yet
CPP_OWN := $(findstring --onnxruntime-root,$(CPP_FLAGS))$(findstring --onnxruntime-library,$(CPP_FLAGS))
CPP_NEEDS := $(if $(CPP_OWN)$(wildcard $(VENV)/.installed $(MINIMAL)/.installed),,$(MINIMAL)/.installed)

.PHONY: help setup demo check lint format types test cpp check-cpp cpp-parts bench bench-smoke gpu-check clean
help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "make: Python %d.%d found, 3.11 or newer expected; run make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[data,export,serve,trt,dev]'
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-deps recbole # ml-100k lies inside; never imported
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-deps tensorrt-cu13-bindings # names of TensorRT's API, no library
	@touch $@

# what the runtime image holds, made by the same script
$(MINIMAL)/.installed: pyproject.toml constraints.txt docker/install.sh docker/versions.env $(SOURCES)
	rm -rf $(MINIMAL)
	PYTHON=$(PYTHON) docker/install.sh serve $(MINIMAL)
	@touch $@

setup: $(VENV)/.installed ## the environment with everything for development

demo: $(VENV)/.installed ## real purchases to recommendations: train, export, verify, recommend, time
	$(RUN) -m examples.demo --out $(DEMO)

check: $(VENV)/.installed $(MINIMAL)/.installed lint types cpp-parts test ## lint, types, all tests, and C++ where it can be built

lint: $(VENV)/.installed ## ruff: rules and format; hadolint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/hadolint docker/Dockerfile

format: $(VENV)/.installed ## ruff: mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.installed ## mypy
	$(VENV)/bin/mypy

test: $(VENV)/.installed $(MINIMAL)/.installed ## all tests
	OMP_NUM_THREADS=1 ONERANKER_RUNTIME_PYTHON=$(MINIMAL)/bin/python $(VENV)/bin/pytest $(SIDE_BY_SIDE) \
	    $(if $(filter require,$(CPP)),--require cpp)

cpp: $(CPP_NEEDS) ## the C++ runtime and its examples into build/cpp/release
	runtime/cpp/configure --level examples $(CPP_INSTALL) $(CPP_FLAGS)
	cmake -C build/cpp/configure.cmake -S runtime/cpp -B build/cpp/release -DCMAKE_BUILD_TYPE=Release \
	    -DONERANKER_BUILD_EXAMPLES=ON
	cmake --build build/cpp/release --parallel $(shell nproc)

check-cpp: $(VENV)/.installed ## all that is checked of the C++ runtime
	runtime/cpp/configure --level check $(CPP_INSTALL) $(CPP_FLAGS)
	PYTHON=$(RUN) runtime/cpp/check

# what `make check` takes of it: all but the Python tests that drive the C++ runtime, which `test` runs
cpp-parts: $(VENV)/.installed
	@if [ "$(CPP)" = off ]; then echo "check: C++ is left out, CPP=off"; \
	elif ! command -v "$${CXX:-c++}" >/dev/null; then echo "check: C++ is left out, no compiler: apt-get install -y g++"; [ "$(CPP)" != require ]; \
	elif ! said=$$(runtime/cpp/configure --level check $(CPP_INSTALL) $(CPP_FLAGS) 2>&1); then \
	    echo "check: C++ is left out:" $$(grep 'is missing' <<<"$$said" | sed 's/^configure: //' | paste -sd';'); \
	    [ "$(CPP)" != require ]; \
	else PYTHON=$(RUN) runtime/cpp/check format release tidy address thread fuzz; fi

bench: $(VENV)/.installed cpp ## the CPU benchmark: rows, HTML page and trace into build/bench; leave the machine alone meanwhile
	$(RUN) -m benchmarks.bench --out build/bench $(BENCH_FLAGS)

bench-smoke: $(VENV)/.installed cpp ## a small part of it: did a ratio get worse than in the committed rows?
	$(RUN) -m benchmarks.smoke

gpu-check: ## everything that needs a GPU, on this machine; WHEELS=folder where there is no network
	$(GPU_PYTHON) -m benchmarks.gpu_check $(if $(WHEELS),--wheels "$(WHEELS)") $(GPU_FLAGS)

clean: ## forget environments, the demo and the C++ builds
	rm -rf $(VENV) $(MINIMAL) $(DEMO) build/cpp
