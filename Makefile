# Everything a developer, CI and a git hook do goes through here, one line each.
# `make demo` and `make test` need CPython 3.11 or later, pip and nothing else: they set up .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests examples benchmarks

.DEFAULT_GOAL := help
.PHONY: help install format lint types test test-all docs dist gallery programs bench zoo demo clean

help: ## what each command does
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable '.[examples]' && touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable '.[dev]' && touch $@ .venv/demo.stamp

.venv/docs.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable '.[docs]' && touch $@

install: .venv/dev.stamp ## set up .venv with all that developers need

format: .venv/dev.stamp ## rewrite the code in the house's format
	$(BIN)/ruff format $(SOURCES) && $(BIN)/ruff check --fix-only --quiet $(SOURCES)

lint: .venv/dev.stamp ## format, style, direction of imports, spelling, and the files that GitHub reads
	$(BIN)/ruff format --check $(SOURCES) && $(BIN)/ruff check $(SOURCES) && $(BIN)/lint-imports && $(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

types: .venv/dev.stamp ## mypy --strict
	$(BIN)/mypy

test: .venv/dev.stamp ## all tests, two at a time (fewer: ARGS='-k name', ARGS='-m "not slow"')
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10 $(ARGS)

test-all: ## as test, but a missing browser is a failure and not a skip
	VIS_CALLBACKS_REQUIRE_BROWSER=1 $(MAKE) test

docs: .venv/docs.stamp ## build the documentation into site/, warnings are errors
	$(BIN)/mkdocs build --strict

dist: .venv/dev.stamp ## build wheel and source distribution into dist/, and check how PyPI would show them
	rm -rf dist && $(BIN)/hatchling build -d dist && $(BIN)/twine check --strict dist/*

gallery: .venv/dev.stamp ## train once and renew the pictures of the documentation
	$(BIN)/python examples/gallery.py $(ARGS)

programs: .venv/dev.stamp ## train the programs of other kinds and renew their table in the documentation
	OMP_NUM_THREADS=1 VIS_CALLBACKS_WRITE_PROGRAMS=1 $(BIN)/python -m pytest -q tests/system/test_programs.py

bench: .venv/dev.stamp ## what the monitors cost: a table (about twenty minutes)
	$(BIN)/python -m benchmarks $(ARGS)

zoo: .venv/dev.stamp ## how often the alerts are right: a thousand trainings (under an hour), a table
	$(BIN)/python -m benchmarks.alert_quality train --workers 2 && $(BIN)/python -m benchmarks.alert_quality judge

demo: .venv/demo.stamp ## a healthy, a sick and a cheating training, to look at in TensorBoard (under 4 minutes)
	rm -rf demo_runs && $(BIN)/python examples/things.py $(ARGS)

clean: ## remove what the other commands made, but .venv
	rm -rf demo_runs lightning_logs dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
