# UPSR: everything happens in .venv; the system Python is only used to create it.
# make demo | make test | make test-slow | make test-all | make lint | make docs | make clean-venv; PYTHON=/path/to/python3.11 chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# In the order of tests/conftest.py: the longest files first, so that both workers end at about the same time.
# A worker that crashes ends the run: with another in its place, xdist waits for ever for the files that the first one had.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Compiled modules are kept, whatever the environment says: compiling tests and package takes 6 s in each worker, 1 s in each process.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Another source of torch: its versions for CPUs, +cpu, come before those of PyPI, which bring CUDA.
TORCH_INDEX :=

.PHONY: help venv demo test test-slow test-all lint docs train-tiny clean-venv

help:
	@echo "make demo        install into .venv, upscale photos with UPSR-tiny, train even smaller networks to show that it runs"
	@echo "make test        install into .venv if needed, run the test suite without those that take longest"
	@echo "make test-slow   the tests that take longest, five seconds to minutes: kills, exports, whole trainings, devices that are not there"
	@echo "make test-all    every test"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation as a site in site/, strictly"
	@echo "make train-tiny  the long training of UPSR-tiny 1, begun or gone on with; state in experiments/tiny2/state.txt"
	@echo "make venv        only install (7 GB with torch's CUDA; without: TORCH_INDEX=https://download.pytorch.org/whl/cpu)"
	@echo "make clean-venv  remove .venv"

venv: $(STAMP)

# The stamp is written last: an interrupted installation is taken up again by the next make.
$(STAMP): requirements.txt setup.py scripts/make_venv.sh $(wildcard upsr/accelerate/native/*.cpp upsr/accelerate/native/*.h)
	@bash scripts/make_venv.sh "$(VENV)" "$(PYTHON)"
	@echo "[1/3] torch and build tools"
	@$(PIP) install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "setuptools<82" wheel cython $$(grep -E '^(torch|torchvision|numpy)==' requirements.txt)
	@echo "[2/3] the other packages (a few minutes)"
	@grep -vE '^(#|$$|basicsr==)' requirements.txt > $(VENV)/requirements.txt
	@$(PIP) install --quiet --no-build-isolation -r $(VENV)/requirements.txt
	@echo "[3/3] basicsr, OpenCV without a screen, and this project"
	@$(PIP) install --quiet --no-deps --no-build-isolation $$(grep '^basicsr==' requirements.txt)
	@$(PIP) install --quiet --no-deps --force-reinstall $$(grep '^opencv-python-headless==' requirements.txt)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "installed into $(VENV)"

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py

test: $(STAMP)
	@echo "running the tests, two files at a time, without those that take longest (make test-slow runs those, make test-all every test)"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

test-slow: $(STAMP)
	@echo "running the tests that take longest, two files at a time"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m slow

test-all: $(STAMP)
	@echo "running all tests, two files at a time"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

lint: $(STAMP)
	@echo "ruff and mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy upsr

# The variable silences an advertisement of another generator.
docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

train-tiny: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m scripts.train_tiny $(ARGS)

clean-venv:
	rm -rf $(VENV)
