# Two commands on a fresh machine (Python 3.11+, git, make):
#   make run    create the environment and run the whole pipeline on the embedded data set
#   make test   create the environment and run every test

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env run test lint kernel

env: $(VENV)/ready

# torch alone and first: a package that depends on it would otherwise pull another build of it.
# `python -m headway` needs the package; the stages do not: they use the src/ beside them.
# The kernel is optional: without it the scan runs on headway's own operators.
$(VENV)/ready: requirements.txt requirements-gpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headway needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	pip install --quiet --disable-pip-version-check -r requirements.txt
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	! nvidia-smi >/dev/null 2>&1 || $(MAKE) kernel || echo "going on without mamba-ssm's kernel; make kernel tries again"
	touch $@

# mamba-ssm as pure Python, which needs no compiler: both variables, or its setup looks for a ready-made wheel.
# --no-deps: what it asks for beyond its scan is a gigabyte that nothing here reads.
kernel:
	pip install --quiet --disable-pip-version-check $$(grep -o '^wheel==[^ ]*' requirements-gpu.txt)
	MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --no-binary mamba-ssm -r requirements-gpu.txt

run: env
	dvc repro

# a file of tests goes to one process, because its tests share what they prepare;
# in the order of the files, because the slow ones have few tests and would come last
test: env
	python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: env
	ruff check .
	ruff format --check .
	lint-imports
	pyright
