# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS ?= .venv-docs
export HF_HUB_OFFLINE ?= 1

METHODS := grpo,dr-grpo,rloo,reinforce++,dapo,gspo,cispo,bapo,mc-grpo,spo-single-stream

.PHONY: help train test check bench chaos docs compare verify fuzz clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml scripts/setup.sh
	@PYTHON=$(PYTHON) sh scripts/setup.sh
	@touch $(READY)

train: $(READY)  ## train a real 135M-parameter language model with GRPO (about 3 minutes on two cores)
	@$(BIN)/anypo train

test: $(READY)  ## the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)  ## formatting, lint, types
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/mypy

bench: $(READY)  ## speed and memory beside the peers (installs them in their own environments)
	@$(BIN)/python -m benchmarks

chaos: $(READY)  ## kill runs 300 times, fill their disk, set their clock; every resumed one must end as if nothing had been (an hour)
	@$(BIN)/python scripts/chaos.py --kills 300

verify: $(READY)  ## run every system's claim and refresh docs/systems.md
	@$(BIN)/anypo verify --all

compare: $(READY)  ## ten methods at an equal budget on the tiny model (about 15 minutes on two cores)
	@$(BIN)/anypo compare $(METHODS) --model tiny --task chain_sum --budget tokens=100k --seeds 5 \
		--out comparisons/example --report docs/examples/compare.html

docs: $(DOCS)/.ready  ## the documentation as a site in site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build -q --strict && echo "site/index.html"

$(DOCS)/.ready: requirements-docs.lock
	@$(PYTHON) -m venv $(DOCS) && $(DOCS)/bin/python -m pip install -q -r requirements-docs.lock && touch $@

fuzz: $(READY)  ## malformed input by the thousand: not one traceback (about 30 minutes)
	@nice $(BIN)/python scripts/fuzz.py --each 10000 --seconds 2400 --record

clean:  ## remove the environment and every build product
	rm -rf .venv $(DOCS) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache
