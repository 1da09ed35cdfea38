# Steersman. "make help" lists what there is; pip follows its own configuration throughout.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check --quiet
DONE := $(VENV)/.done
# A requirement such as torch==2.13.0, or the path of a wheel; by default the pinned version, in the build that pip finds.
TORCH ?=
TORCH_REQUIREMENT := $(if $(TORCH),$(TORCH) -c requirements/constraints.txt,-r requirements/torch.txt)
TORCH_DONE := $(DONE)/torch-$(shell printf '%s' '$(TORCH_REQUIREMENT)' | cksum | cut -d' ' -f1)
PYTEST_WORKERS ?= 2
PYTEST ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help up setup test test-gpu lint bench bench-peers figures demo-policy docs messages compilemessages guide clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | while IFS='|' read -r name words; do \
		printf '  make %-15s %s\n' "$$name" "$$words"; done
	@echo
	@echo '  make up TORCH=torch==2.13.0 (or the path of a wheel) chooses the build of torch; ARGS="--port 9000" goes to manage.py up.'

up: setup ## install what is missing, start everything, print the address; Ctrl-C stops it
	@exec $(RUN) manage.py up $(ARGS)

setup: $(DONE)/run ## install what "make up" needs into .venv

test: $(DONE)/dev lint ## set up, then lint, types and all tests (BROWSER=0 leaves the browser tests out)
	@BROWSER='$(BROWSER)' .ci/chromium
	$(RUN) -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST)

test-gpu: $(DONE)/dev ## core, learning and worker tests on a GPU, with a table
	$(RUN) -m tests.gpu $(PYTEST)

lint: $(DONE)/dev ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy .

bench: $(DONE)/dev ## speed and load: JSON, and the figures beside their goals
	$(RUN) -m benchmarks $(or $(ARGS),feedback-exact feedback-think rating loop)

bench-peers: $(DONE)/dev ## environments of the libraries that we are timed against, in .venv-peers
	$(RUN) -m benchmarks.peers.environments $(ARGS)

figures: $(DONE)/dev ## every figure that we promise beside its goal; ARGS="simulate" for a slow one, ARGS=all for all
	$(RUN) -m benchmarks $(ARGS)

demo-policy: $(DONE)/run ## train the demo policy again (hours; interrupt and repeat at will)
	nice -n 10 $(RUN) -m demo.train_policy --out .steersman/demo-policy $(or $(ARGS),--minutes 180)
	$(RUN) -m demo.export_policy --run .steersman/demo-policy

docs: $(DONE)/dev ## write docs/training-settings.md from the settings
	$(RUN) -m tests.house.training_settings

messages: $(DONE)/dev ## bring webapp/locale/*/django.po up to date with the sources (needs GNU gettext)
	$(RUN) manage.py messages

compilemessages: $(DONE)/dev ## write the .mo files that the pages read from the .po files (needs GNU gettext)
	cd webapp && ../$(RUN) ../manage.py compilemessages

guide: $(DONE)/dev ## take the pictures of docs/rater-guide.md again; ARGS="pair ranking" for some
	@BROWSER='$(BROWSER)' .ci/chromium
	$(RUN) -m tests.house.guide_pictures $(ARGS)

clean: ## remove .venv and caches; your data in .steersman stay
	rm -rf $(VENV) .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -not -path './.git/*' -exec rm -rf {} +

$(DONE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: make up PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq python3-venv; } \
		|| { echo 'Python has no venv here: sudo apt-get install -y python3-venv'; exit 1; }
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(DONE) && touch $@

$(TORCH_DONE): requirements/torch.txt | $(DONE)/venv
	@$(RUN) requirements/torch_size.py $(TORCH_REQUIREMENT)
	$(PIP) $(TORCH_REQUIREMENT)
	@rm -f $(DONE)/torch-* && touch $@

$(DONE)/run: $(TORCH_DONE) requirements/local.txt requirements/base.txt requirements/web.txt requirements/demo.txt requirements/constraints.txt
	$(PIP) -r requirements/local.txt
	$(PIP) --no-deps -r requirements/demo.txt
	@touch $@

$(DONE)/dev: $(DONE)/run requirements/dev.txt requirements/track.txt
	$(PIP) -r requirements/dev.txt
	@touch $@
