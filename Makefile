# make run     install into .venv, fetch the model once, and show agents at work on it; RUN=--no-crash is shorter
# make test    install into .venv what the tests need, and run them
# make check   lint and types as well, then the tests
# make format  rewrite the sources in the common form
# make clean   remove what these made
#
# PYTHON=python3.12 picks the interpreter. Nothing is installed again while interpreter, folder, pyproject.toml and
# constraints.txt are the same.

PYTHON ?= python3
BIN := .venv/bin
#: The folders that pyproject.toml maps into the package tokix.
FOLDERS := syscalls kernel drivers storage agents shell

.PHONY: run test check lint types format clean FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

run: .venv/hf.stamp
	$(BIN)/tokix demo $(RUN)

test: .venv/test.stamp
	$(BIN)/python -m pytest

# The tests come last, so that their summary is the last line.
check: lint types test

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow an editable install with mapped folders, so it gets a folder that looks like the package.
# Tests and benchmarks need no annotations, but what they have and what they call has to fit; hence no strict settings.
LENIENT := --config-file= --python-version=3.11 --follow-imports=silent --cache-dir=.mypy_cache/lenient

types: export MYPYPATH := .build/types
types: .venv/dev.stamp
	rm -rf .build/types
	mkdir -p .build/types/tokix
	ln -s $(addprefix ../../../,$(wildcard tokix/*.py) tokix/py.typed $(FOLDERS)) .build/types/tokix
	$(BIN)/mypy --strict -p tokix
	$(BIN)/mypy $(LENIENT) tests
	$(if $(shell find benchmarks -name '*.py'),$(BIN)/mypy $(LENIENT) --ignore-missing-imports benchmarks)

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment with an extra of pyproject.toml installed.
.venv/%.stamp: .venv/made-for pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

# The environment. Another interpreter, or a copy of this folder, needs another one: an editable install is a path.
.venv/made-for: FORCE
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "tokix needs Python 3.11 or newer, and $(PYTHON) is %s; try make PYTHON=python3.12" % sys.version.split()[0])'
	@made_for="$$($(PYTHON) -c 'import sys; print(sys.base_prefix, *sys.version.split())') $(CURDIR)"; \
	if [ "$$made_for" != "$$(cat $@ 2>/dev/null)" ]; then \
	    $(PYTHON) -m venv --clear .venv && echo "$$made_for" > $@; \
	fi
