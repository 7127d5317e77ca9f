# make demo          the main job in ./demo: a project, its datasets packed and uploaded, a net trained on them,
#                    a picture
# make test          the tests
# make test-oldest   the tests of what touches Accelerate and the loader, on the oldest versions allowed
# make lint          style, types and layers
#
# Each makes .venv (or .venv-oldest) when it is missing or older than what it is made from.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := "$(CURDIR)/$(VENV)/bin"
READY := $(VENV)/.ready

# What stands on Accelerate, torch and NumPy; kills, faults and leaks are the same on all versions.
ON_OLDEST := tests/laws tests/train tests/stream/test_handover.py tests/stream/test_loader.py \
	tests/stream/test_plain_ranks.py tests/stream/test_randomness.py \
	--ignore tests/laws/test_cache_kills.py --ignore tests/laws/test_faults.py

# Most tests wait for other processes more than they compute; those of a file run one after the other.
TOGETHER := --numprocesses 4 --dist loadfile

# Tests start processes by the thousand, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-oldest lint

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
	$(BIN)/pytest $(TOGETHER)

test-oldest: $(OLDEST)/.ready
	"$(CURDIR)/$(OLDEST)/bin/pytest" $(TOGETHER) -m 'not slow' $(ON_OLDEST)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): CONSTRAINTS := constraints.txt
$(OLDEST)/.ready: CONSTRAINTS := constraints-oldest.txt
$(READY): constraints.txt
$(OLDEST)/.ready: constraints-oldest.txt
$(READY) $(OLDEST)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "benchkit needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(@D)
	"$(CURDIR)/$(@D)/bin/pip" install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	touch $@
