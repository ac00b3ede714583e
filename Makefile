# Both commands do all of their own set-up, in .venv inside the checkout.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test clean

demo: $(VENV)/.installed
	RC2L_HOST=embedded $(VENV)/bin/python tools/toy_demo.py

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest -n 2

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) output
