# nfslab: the commands a newcomer needs. `make help` lists them.

SHELL := /bin/bash
CARGO ?= cargo
NFSLAB = target/debug/nfslab
# The series that `make kernels` boots beside 6.1.
KERNELS ?= 5.10 6.12 6.18 7.3

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps build ## Freeze a real Linux kernel in flock(), see why, cure it
	@echo "== the frozen processes: about half a minute =="
	$(NFSLAB) run scenarios/frozen-processes.toml

# Every test of the whole that needs no kernel.
QUICK_TESTS = $(filter-out kernel restart,$(basename $(notdir $(wildcard tests/tests/*.rs))))
.PHONY: test
test: deps lint build suite-programs ## Run every test, those on a real kernel included
	@echo "== unit, model, codec and hostile-byte tests =="
	$(CARGO) test --workspace --exclude nfslab-vm --exclude nfslab-tests --quiet
	$(CARGO) test -p nfslab-tests $(addprefix --test ,$(QUICK_TESTS)) --quiet
	@echo "== tests on real kernels =="
	$(CARGO) test -p nfslab-vm
	$(CARGO) test -p nfslab-tests --test kernel -- --nocapture --test-threads=1
	$(CARGO) test -p nfslab-tests --test restart
	$(CARGO) test -p nfslab-tests --test compare

# What `make compare` compares with, and which transcripts: `make compare KERNEL=6.12 CASES="lookup nlm4"`.
KERNEL ?= 6.1
CASES ?=
.PHONY: compare
compare: deps ## Compare our answers with those of Linux' server, call by call
	$(CARGO) build -p nfslab
	KERNEL=$(KERNEL) $(CARGO) test --quiet -p nfslab-tests --test compare -- $(CASES)

.PHONY: kernels
kernels: deps build suite-programs ## Run every scenario and suite on further kernels: $(KERNELS)
	$(NFSLAB) kernel fetch $(KERNELS)
	for series in $(KERNELS); do \
		$(NFSLAB) run --kernel $$series scenarios/*.toml || exit 1; \
		for store in mem dir; do \
			$(NFSLAB) run --kernel $$series --store $$store scenarios/suites/*.toml || exit 1; \
		done; \
	done

# File-system suites that come as crates, as NAME@VERSION; the others are Debian packages.
SUITES = fsx@0.3.2 pjdfstest@0.2.2
# What `make suites` runs, on which store (mem or dir), and its variables:
# `make suites SUITE=stress-ng STORE=dir SET="--set seconds=30"`.
SUITE ?= *
STORE ?= mem
SET ?=
.PHONY: suites
suites: deps build suite-programs ## Run file-system suites of others on a real kernel's mount
	$(NFSLAB) run --store $(STORE) $(SET) --report json=target/suites/report.json scenarios/suites/$(SUITE).toml

.PHONY: symptoms
symptoms: deps build ## Run every scenario and write docs/symptoms.md from what was seen
	$(NFSLAB) run --report symptoms=docs/symptoms.md scenarios/*.toml

# Which scenarios `make repeat` runs, and how often.
REPEATED ?= granted-twice granted-first lock-range-too-big late-copy-locks reclaim-refused unlock-not-done done-twice lossy-network
RUNS ?= 10
.PHONY: repeat
repeat: deps build ## Run scenarios RUNS times (10) and compare the journals of their decisions
	journals=$$(mktemp -d) && trap "rm -r $$journals" EXIT && for name in $(REPEATED); do \
		for run in $$(seq $(RUNS)); do \
			$(NFSLAB) run --journal $$journals/$$name-$$run scenarios/$$name.toml || exit 1; \
		done; \
		echo "$$name: $$($(NFSLAB) journal compare $$journals/$$name-*)" | tee -a $$journals/all || exit 1; \
	done && cat $$journals/all

.PHONY: suite-programs
suite-programs:
	@echo "== suites that come as crates =="
	$(CARGO) install --quiet --locked --root target/suites $(SUITES)

.PHONY: examples
examples: ## Run the examples, in nfslab/examples
	$(CARGO) run --quiet -p nfslab --example lab
	$(CARGO) build --quiet -p nfslab
	PATH="$(CURDIR)/target/debug:$$PATH" nfslab/examples/shell.sh

.PHONY: build
build: ## Build everything
	@echo "== building =="
	$(CARGO) build --workspace --bins

.PHONY: lint
lint: ## Formatting and clippy, warnings denied
	@echo "== formatting and lints =="
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: deps
deps: ## Install the Debian packages that are missing (needs root)
	@scripts/deps

# Flags of nfslab-bench: `make bench BENCH="--only LOCK --rounds 500"`.
BENCH ?=
# And of nfslab-bench fuse: `make bench FUSE_BENCH="--rounds 9"`.
FUSE_BENCH ?=
.PHONY: bench
bench: ## Measure the lock table, the server beside a responder that does nothing, the FUSE mount
	$(CARGO) build --release -p nfslab -p nfslab-benches
	$(CARGO) bench --quiet -p nfslab-benches
	target/release/nfslab-bench $(BENCH)
	target/release/nfslab-bench fuse $(FUSE_BENCH) || [ $$? = 77 ]

# How many random transitions `make model` compares.
TRANSITIONS ?= 1000000
.PHONY: model
model: ## Compare the lock service with its model over TRANSITIONS random transitions (1000000)
	NFSLAB_TRANSITIONS=$(TRANSITIONS) $(CARGO) test --release -p nfslab-nlm --test state_machine -- --nocapture

# How long each fuzz target runs.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZ_SECONDS each (60); needs a nightly toolchain and cargo-fuzz
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
		mkdir -p corpus/$$target && \
		cargo +nightly fuzz run $$target corpus/$$target $$(ls -d kept/$$target 2>/dev/null) seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

.PHONY: clean
clean: ## Remove what was built; the kernels in the cache stay
	$(CARGO) clean
