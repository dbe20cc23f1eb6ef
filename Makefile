# Every target makes .venv first when it is missing or older than pyproject.toml and constraints.txt.
# PYTHON=python3.12 takes another Python; TORCH_INDEX=URL adds a package index for torch (PyTorch's CPU wheels, say). It is added, not
# put in PyPI's place, because such an index has only some versions of what torch depends on; of two builds of torch, pip takes its +cpu one.
# ARGS="..." goes to the command behind `tutorial`, `lab` and `test-slow`.

PYTHON ?= python3
PIP := .venv/bin/python -m pip install -qq --disable-pip-version-check
NO_INSTALL = { echo "error: the installation failed for the reason above; mend it (often the network, or the mirror in 'pip config list'), then run make again." >&2; exit 1; }

# Whatever is activated, a notebook's shell commands find the kit's Python.
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m

.PHONY: help setup tutorial lab test test-slow gptq slides screenshots bench constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' $(MAKEFILE_LIST)

setup: .venv/.installed  ## install into .venv

tutorial: setup  ## run the five notebooks, write runs/TIMESTAMP/report.html
	@$(RUN) helpers.tutorial $(ARGS)
	@$(if $(findstring --in-place,$(ARGS)),$(RUN) tools.cost_boxes)

lab: setup  ## open JupyterLab on notebooks/
	@$(RUN) jupyterlab notebooks $(ARGS)

test test-slow: export HF_HUB_OFFLINE = 1

test: setup  ## unit tests, tests on the real embedded model, the notebooks
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@# Two at a time, and the tests of one file in one process: those that start servers then never reach for the same port.
	@$(RUN) pytest -n 2 --dist loadfile -m "not real and not long and not slow"
	@$(RUN) pytest -m "(real or long) and not slow"
	@# A cell may take 600 seconds; pytest's own limit is higher there, so that nbval names the cell and stops its kernel first.
	@$(RUN) pytest --nbval-lax --nbval-cell-timeout 600 --timeout 660 notebooks

test-slow: setup  ## soak, long fuzzing, several seeds
	@$(RUN) pytest -m slow $(ARGS)

gptq: setup  ## make a 4-bit GPTQ folder of the embedded model (a minute)
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@$(RUN) helpers.weights gptq smollm2-135m-instruct

slides: setup  ## build the talk: runs/slides.html, one file for a browser
	@$(RUN) tools.slides

screenshots: setup  ## make the panels' pictures anew, notebooks/images/panel-*.png (needs Debian's Chromium)
	@$(RUN) helpers.weights fetch smollm2-135m-instruct
	@KIT_SCREENSHOTS=notebooks/images $(RUN) pytest -rs tests/tutorial/test_panels_browser.py

bench: setup  ## measure training, judging, learning and serving on this machine (hours)
	@$(RUN) benchmarks.training
	@$(RUN) benchmarks.evaluation
	@$(RUN) benchmarks.learning
	@$(RUN) benchmarks.serving

constraints: setup  ## write constraints.txt from what .venv holds (run the tests after)
	@{ sed '/^[^#]/,$$d' constraints.txt; .venv/bin/python -m pip freeze --exclude-editable | sed 's/+.*//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove .venv, runs/ and caches; models/ and loras/ stay
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
	@echo "models/ and loras/ stay: delete them yourself when you do not need them any more."

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { echo "1/3 making .venv (seconds)"; $(PYTHON) -m venv --clear .venv; }
	@echo "2/3 installing torch (a minute or two; most of it is the download)"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt torch || $(NO_INSTALL)
	@echo "3/3 installing the kit and what it uses (about three minutes)"
	@$(PIP) -c constraints.txt -e '.[dev,llamacpp,gptq]' || $(NO_INSTALL)
	@touch $@
