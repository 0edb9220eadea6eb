# make demo   set everything up and run the main job on generated rooms
# make test   set everything up and run the tests
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow lint format setup sanitize bench gpu resume-test replay-test faults attribution healthy

demo: setup
	$(BIN)/bifusion demo

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

setup: $(READY)

ENGINE := src/bifusion/sparse/native
$(READY): pyproject.toml CMakeLists.txt $(wildcard $(ENGINE)/*.cpp $(ENGINE)/*.h $(ENGINE)/*.inl)
	@$(PYTHON) tools/preflight.py
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

lint: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/ruff check src tests benchmarks laboratory tools
	$(BIN)/ruff format --check src tests benchmarks laboratory tools
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format src tests benchmarks laboratory tools
	$(BIN)/ruff check --fix src tests benchmarks laboratory tools

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
