# Each target sets itself up: it creates .venv in this folder and installs into it.
PYTHON ?= python3
VENV := .venv
# Two workers take whole modules in the order of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow clean

# Generate landscapes, train on 10 labels alone and with RC2L, evaluate, draw predictions. Two to six minutes. Two
# processes with one thread each are faster than one after the other with two threads.
demo: $(VENV)/.installed
	RC2L_HOST=embedded $(VENV)/bin/python tools/toy_demo.py

# Style, format, types and the fast tests.
test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest $(TWO) -m "not slow"

# Tests that are long by nature: kills, soak, wheel, torchrun, tutorial, export.
test-slow: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(TWO) -m slow

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) output
