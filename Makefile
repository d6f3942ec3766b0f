# Two commands on a fresh machine (Python 3.11+, git, make):
#   make run    create the environment and run the whole pipeline on the embedded data set
#   make test   create the environment and run every test

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: env run test lint

env: $(VENV)/ready

# torch alone and first: a package that depends on it would otherwise pull another build of it.
# `python -m headway` needs the package; the stages do not: they use the src/ beside them.
$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headway needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	pip install --quiet --disable-pip-version-check -r requirements.txt
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

run: env
	dvc repro

test: env
	python -m pytest

lint: env
	ruff check .
	ruff format --check .
	lint-imports
	pyright
