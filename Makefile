# Everything runs in a virtual environment of its own; a second run installs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Threads that wait give their core away: a little slower on an idle machine, much faster on a busy one.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo docs test check fuzz clean

demo: $(VENV)/installed
	$(BIN)/flowdet detect demo/street.mp4 --score 0.5 --out demo/output --overwrite
	@echo "Open demo/output/street.mp4"

test: $(VENV)/installed-dev check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal

docs: $(VENV)/installed-dev
	$(BIN)/python scripts/site_pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Damaged inputs for two minutes; CONTRIBUTING.md has the long form.
fuzz: $(VENV)/installed-dev
	$(BIN)/python scripts/fuzz.py --minutes 2

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "flowdet needs Python 3.11 or later: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build site demo/output .pytest_cache .mypy_cache .ruff_cache
