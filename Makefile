# make demo   the main job in ./demo: a project, its datasets packed and uploaded, a net trained on them, a picture
# make test   the tests
# make lint   style, types and layers
#
# Each makes .venv when it is missing or older than what it is made from.

PYTHON ?= python3
VENV := .venv
BIN := "$(CURDIR)/$(VENV)/bin"
READY := $(VENV)/.ready

.PHONY: demo test lint

# CPUs, so that the demo is the same everywhere; two processes, as a training of several GPUs has.
demo: $(READY)
	rm -rf demo
	mkdir demo
	cd demo && $(BIN)/bench-kit startproject digits
	cd demo/digits && export BENCHKIT_CACHE_DIR="$(CURDIR)/demo/cache" \
		&& $(BIN)/python manage.py migrate-data \
		&& $(BIN)/python manage.py train --processes 2 --cpu \
		&& $(BIN)/bench-kit show-samples val --output samples.png
	@echo "the picture: demo/digits/samples.png"

test: $(READY)
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "benchkit needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
