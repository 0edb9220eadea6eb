# make demo   set everything up and run the main job on generated rooms
# make test   set everything up and run the tests
# make check  set everything up and look at the code: style, types, layers
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

CODE := src tests benchmarks laboratory tools
# Unit tests that run once more with every argument and result held against its annotation.
TYPED := $(addprefix tests/unit/test_,$(addsuffix .py,bifusion data_dataset data_images data_scene_folder \
	data_transforms evaluation export files folders fusion geometry guard labels losses matcher oneformer3d \
	postprocess predict query_decoder robust sparse_conv sparse_kernel_map stages superpoints unet))

.PHONY: demo test check types slow format setup tools sanitize bench gpu resume-test replay-test faults attribution healthy

demo: setup
	$(BIN)/bifusion demo

# A process a core, one thread each: tests that need more threads ask for them. Files go in their order,
# whole runs (integration) first: xdist's own, most tests first, leaves long files of few tests for the end.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/python -m pytest -m slow

setup: $(READY)

ENGINE := src/bifusion/sparse/native
$(READY): pyproject.toml CMakeLists.txt $(wildcard $(ENGINE)/*.cpp $(ENGINE)/*.h $(ENGINE)/*.inl)
	@$(PYTHON) tools/preflight.py
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

TOOLS := .venv/.tools
tools: $(TOOLS)
$(TOOLS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

check: tools
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	@$(MAKE) types

types: tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --jaxtyping-packages=bifusion,typed.check \
		-m "not wrong_types and not slow and not gpu" $(TYPED)

format: tools
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

sanitize: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nanobind
	$(BIN)/python tools/sanitize.py

bench: setup
	$(BIN)/python -m benchmarks

# what only a GPU can show; without one, the proofs that need none
gpu: setup
	$(BIN)/python -m benchmarks.gpu

resume-test: setup
	$(BIN)/python tools/resume_test.py

replay-test: setup
	$(BIN)/python tools/replay_test.py

attribution: setup
	$(BIN)/python tools/attribution_sweep.py

healthy: setup
	$(BIN)/python tools/healthy_runs.py

faults: setup
	$(BIN)/python -m laboratory
