# `make demo` and `make test` set up .venv by themselves, from the package index alone; the demo installs what it runs with.

PYTHON ?= $(shell command -v python3.12 || command -v python3)
BIN := .venv/bin
# Bytecode is written when a module is first imported, which of most is never: half of pip's time.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
DEMO := demo
# The demo's seed: of initial weights, order, masks. `make demo SEED=1 DEMO=demo-1` is another run.
SEED := 0

.PHONY: demo test test-all checked lint docs lock clean

# ---- the main job, end to end, on text that is already on the machine ---------------------------------------------
# A stage up to `pretrain` says so and does nothing where its output is there already; an interrupted run goes on.

demo: .venv/installed
	@$(BIN)/bert-jax corpus --output $(DEMO)/corpus
	@$(BIN)/bert-jax vocab --input $(DEMO)/corpus --output $(DEMO)/vocab --size 4096
	@$(BIN)/bert-jax prepare --input $(DEMO)/corpus --vocab $(DEMO)/vocab --output $(DEMO)/data --sequence-length 32 64
	@$(BIN)/bert-jax pretrain demo --data $(DEMO)/data --output $(DEMO)/run seed=$(SEED)
	@$(BIN)/bert-jax evaluate $(DEMO)/run --data $(DEMO)/data
	@$(BIN)/bert-jax report $(DEMO)/run
	@$(BIN)/bert-jax fill-mask $(DEMO)/run \
		"If the file does not [MASK], an error is raised." \
		"Returns the number of [MASK] in the list." \
		"This function is used to [MASK] the array. [SEP] The shape of the [MASK] is not changed."

# ---- checks -------------------------------------------------------------------------------------------------------

# Two processes: most of a test is one thread, compiling. The TPU compiler is on the path of the tests only.
PYTEST := PYTHONPATH="$(CURDIR)/.venv/tpu-compiler" $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# What answers within 90 s on two cores: lint, types, and the tests that compile nothing (tests/conftest.py lists the others).
.PHONY: check
check: lint
	$(PYTEST) -m "not slow and not long"

# All but the slow ones (tests/conftest.py lists them).
test: checked
	$(PYTEST) -m "not slow"

test-all: checked
	$(PYTEST)

# Lint, types, documents and the compiler for TPUs side by side: each keeps one core busy, or the network.
checked: .venv/installed
	@$(MAKE) --no-print-directory --jobs 2 .venv/dev .venv/tpu-compiler lint docs

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documents and the Python API as a site, in build/docs.
docs: .venv/dev
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs

# ---- the environment ----------------------------------------------------------------------------------------------

.venv/installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
		echo "bert_jax needs Python 3.12 or newer, and $(PYTHON) is older: run make PYTHON=/path/to/python3.12"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(PIP) -r requirements.lock
	$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

.venv/dev: .venv/installed requirements-dev.lock
	$(PIP) -r requirements-dev.lock
	@touch $@

.venv/tpu-compiler: .venv/installed requirements-plan.lock
	$(PIP) --upgrade --target $@ -r requirements-plan.lock
	@touch $@

# Newest versions of everything, tried in an environment of its own. Names and versions only.
EXTRAS := tensorflow,beam,jieba,sentencex,near-duplicates,onnx,gcs,dev,docs
FREEZE := .venv-lock/bin/python -m pip freeze --all --exclude bert-jax --exclude pip
lock:
	rm -rf .venv-lock && "$(PYTHON)" -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check . "setuptools>=80"
	{ echo "# Exact versions of what bert_jax itself needs, made by make lock."; $(FREEZE); } > requirements.lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock ".[$(EXTRAS)]"
	{ echo "# Exact versions of what .[$(EXTRAS)] needs beside requirements.lock, made by make lock."; \
	  $(FREEZE) | grep --invert-match --line-regexp --fixed-strings --file requirements.lock | \
	  sed '/^tensorflow.cpu/ s/$$/ ; sys_platform == "linux"/'; \
	} > requirements-dev.lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check ".[plan]"
	{ head -1 requirements-plan.lock; .venv-lock/bin/python -m pip freeze | grep '^libtpu=='; } > .venv-lock/plan.lock
	mv .venv-lock/plan.lock requirements-plan.lock
	rm -rf .venv-lock build

clean:
	rm -rf .venv build *.egg-info
