# Two commands do all the set-up: `make demo` and `make test`. Each makes the virtual environment
# from pyproject.toml and constraints.txt when it is missing or older than they are.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint browser docs bench clean

demo: $(READY)
	$(BIN)/ppl-vae compare --data digits --objective elbo --objective iwae:50 --seeds 3 \
	  --epochs 400 --patience 12 --learning-rate 5e-3 --ema-decay 0.99 --hidden 100,100 --latent 20 \
	  --engine ray --out demo

test: $(READY) lint browser
	$(BIN)/pytest -n 2

# The report is tested in a real browser: Debian's, where one may install it; else those tests skip.
browser:
	@command -v chromium chromedriver >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	  echo "no chromium and chromedriver here: the tests of the report in a browser are skipped"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/generate_objectives.py
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

bench: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/evidence.py
	$(BIN)/python benchmarks/adaptive.py
	$(BIN)/python benchmarks/annealing.py

clean:
	rm -rf $(VENV) demo docs/_build

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ppl_vae needs Python 3.11 or newer: set PYTHON=python3.11 (found $$($(PYTHON) --version))"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
