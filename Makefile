# make demo   set everything up and run the main job on generated rooms
# make test   set everything up and run the tests
# make check  set everything up and look at the code: style, types, layers
PYTHON ?= python3
# which of PyTorch's wheels: cuda, its ordinary ones, or cpu, where no NVIDIA GPU is to be used
TORCH ?= cuda
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
READY := .venv/.ready
# what Python compiles is kept: many short processes would each compile everything again
unexport PYTHONDONTWRITEBYTECODE

CODE := src tests benchmarks laboratory tools
# Unit tests that run once more with every argument and result held against its annotation.
TYPED := $(addprefix tests/unit/test_,$(addsuffix .py,bifusion data_dataset data_images data_scene_folder \
	data_transforms evaluation export files folders fusion geometry guard labels losses matcher oneformer3d \
	postprocess predict query_decoder robust sparse_conv sparse_kernel_map stages superpoints trained_parts unet))

.PHONY: demo test check types slow format setup tools sanitize bench gpu docs docs-serve wheels oldest notebooks \
	release-check resume-test replay-test fuzz hostile faults attribution healthy kill-trial soak chaos

demo: setup
	$(BIN)/bifusion demo

# A process a core, one thread each: tests that need more threads ask for them. Files go in their order,
# whole runs (integration) first: xdist's own, most tests first, leaves long files of few tests for the end.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/python -m pytest -m slow

setup: $(READY)

# python, further options: PyTorch without CUDA, where that is wanted; pip, where it knows several indexes, may
# take PyTorch of one and torchvision of another, which fit by version alone
cpu_torch = test $(TORCH) != cpu || { $(1) -m pip install --quiet --disable-pip-version-check $(2) \
	--index-url $(TORCH_CPU_INDEX) 'torch>=2.6' 'torchvision>=0.21' || { echo "PyTorch's wheels without \
	CUDA cannot be had from $(TORCH_CPU_INDEX): \`make TORCH=cuda ...\` takes the ordinary ones, \
	TORCH_CPU_INDEX=ADDRESS others" >&2; exit 1; }; $(1) -c 'import torchvision' 2>/dev/null || { echo "PyTorch \
	and torchvision without CUDA came from different builds, which do not work together: see that pip has but one \
	source of them (\`pip config list\`), then \`rm -rf .venv\`; \`make TORCH=cuda ...\` takes the ordinary \
	ones, TORCH_CPU_INDEX=ADDRESS others" >&2; exit 1; }; }

ENGINE := src/bifusion/sparse/native
$(READY): pyproject.toml CMakeLists.txt $(wildcard $(ENGINE)/*.cpp $(ENGINE)/*.h $(ENGINE)/*.inl)
	@$(PYTHON) tools/preflight.py $(TORCH)
	@$(PYTHON) -m venv .venv
	@$(call cpu_torch,$(BIN)/python)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

TOOLS := .venv/.tools
tools: $(TOOLS)
$(TOOLS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

DOCS := .venv/.docs
$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,docs]'
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

# the site in build/site, from what is here alone; a warning is an error
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo build/site/index.html

docs-serve: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

RELEASE := .venv/.release
$(RELEASE): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,release]'
	@touch $@

# dist/: the source distribution and a wheel for every Python that is installed, each tried afresh
wheels: $(RELEASE)
	$(BIN)/python tools/wheels.py

# the oldest versions that pyproject.toml admits, in an environment of their own
oldest:
	@$(PYTHON) tools/preflight.py $(TORCH) > /dev/null  # what is missing is told on the error output
	@$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tools/oldest.py > .venv-oldest/constraints.txt
	@$(call cpu_torch,.venv-oldest/bin/python,--constraint .venv-oldest/constraints.txt)
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-oldest/constraints.txt '.[test]'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest tests/unit --numprocesses auto --dist loadfile

notebooks: $(RELEASE)
	$(BIN)/python tools/run_notebooks.py

# what is too slow for every day and must hold before a release
release-check: docs notebooks wheels
	$(BIN)/python -m pytest -m slow tests/integration/test_docs.py tests/integration/test_install.py

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

# every long command killed at random moments; a long training watched; all disturbances together
kill-trial: setup
	$(BIN)/python tools/kill_trial.py

soak: setup
	$(BIN)/python tools/soak.py

chaos: setup
	$(BIN)/python tools/chaos.py

replay-test: setup
	$(BIN)/python tools/replay_test.py

attribution: setup
	$(BIN)/python tools/attribution_sweep.py

healthy: setup
	$(BIN)/python tools/healthy_runs.py

# every kind of hostile input in place of every file that a reader opens
hostile: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m laboratory.hostile

# mutated files for every reader; goes on where it was interrupted (hours in all: FUZZ="--share 0.01")
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m laboratory.fuzz $(FUZZ)

faults: setup
	$(BIN)/python -m laboratory
