# Each target sets up .venv when it is missing or older than what it is made from.
#   make demo PYTHON=python3.12          is made with another Python
#   make demo TORCH_INDEX=https://...    takes torch from another index, such as one with CPU or CUDA builds
PYTHON ?= python3
TORCH_INDEX ?=
KILLS ?= 200
MINUTES ?= 5
BIN := .venv/bin
READY := .venv/ready
export RAY_USAGE_STATS_ENABLED := 0
# Hundreds of processes of the tests import the same modules: their bytecode is kept, also where the environment says not to.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-machines check learn chaos ray-chaos benchmark clean

# What a set-up that broke off has left is cleared.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed; make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up .venv: torch, then the rest; some minutes the first time"
	$(PYTHON) -m venv $(if $(wildcard $(READY)),,--clear) .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## a translator and an agent on a local Ray, in minutes
	@sh benchmarks/demo.sh

test: $(READY)  ## everything but test-machines, a process for each core
	$(BIN)/python -m pytest -n auto -m 'not machines'

test-machines: $(READY)  ## clusters of several machines, imitated here: faults, submissions, sweeps, runs at a URL
	$(BIN)/python -m pytest -m machines

check: $(READY)  ## format, lint, types, layers, quick tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m 'not slow and not ray and not learn'

chaos: $(READY)  ## kill runs at random moments and resume them; KILLS=, RECIPE=, ON="ray --workers 2"; writes docs/resume.md
	$(BIN)/python benchmarks/chaos.py --kills $(KILLS) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(ON),--on $(ON))

ray-chaos: $(READY)  ## lose workers, machines and drivers of runs on several raylets; MINUTES=; writes docs/resume.md
	$(BIN)/python benchmarks/ray_chaos.py --minutes $(MINUTES)

learn: $(READY)  ## every small recipe with three seeds; writes docs/learning.md
	$(BIN)/python benchmarks/learn.py

benchmark: $(READY)  ## most measurements, in hours (cluster ones too); writes under docs/
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/spine.py
	$(BIN)/python benchmarks/decoding_speed.py
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/training_profile.py
	$(BIN)/python benchmarks/switch_costs.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/agents_speed.py
	$(BIN)/python benchmarks/paac_profile.py
	$(BIN)/python benchmarks/checkpoint_stall.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/replay_speed.py --memory --write
	$(BIN)/python benchmarks/cliffwalk.py
	$(BIN)/python benchmarks/ray_scaling.py
	$(BIN)/python benchmarks/actors.py --write
	$(BIN)/python benchmarks/submission.py
	$(BIN)/python benchmarks/sweep.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
