# Two commands matter: `make demo` and `make test`. The rest are their parts.
SHELL := /bin/bash
CLUSTER := target/cluster
STAGE := tests/cluster/stage
.DEFAULT_GOAL := help
# Every target that the list of `make help` has.
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*##.*/\1/p' Makefile)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

demo: ## Show Spendkeeper working on a real Kubernetes (KUBECONFIG: on your own cluster)
	@tests/cluster/demo

demo-down: ## Take the local cluster down; nothing is left behind
	@tests/cluster/down $(CLUSTER)

# The release is linked for a long time on one CPU; the tests before those that need it mind that little.
test: ## Every level of test
	@$(STAGE) --reset
	@trap '$(STAGE) --end; $(STAGE) --summary' EXIT; \
	$(STAGE) --beside release tests/cluster/release && \
	$(STAGE) lint $(MAKE) --no-print-directory lint && \
	$(STAGE) unit $(MAKE) --no-print-directory test-unit && \
	$(STAGE) postgres $(MAKE) --no-print-directory test-postgres && \
	$(STAGE) fuzz $(MAKE) --no-print-directory test-fuzz && \
	$(STAGE) simulation $(MAKE) --no-print-directory test-simulation && \
	$(STAGE) model $(MAKE) --no-print-directory test-model && \
	$(STAGE) conformance $(MAKE) --no-print-directory test-conformance && \
	$(STAGE) kubernetes tests/cluster/build $(CLUSTER) && \
	$(STAGE) chart $(MAKE) --no-print-directory lint-chart && \
	$(STAGE) api $(MAKE) --no-print-directory test-api && \
	$(STAGE) leftovers tests/cluster/leaves-nothing && \
	$(STAGE) --await release && \
	$(STAGE) e2e $(MAKE) --no-print-directory test-e2e

test-unit: ## Unit and property tests, and a whole sidecar on loopback: seconds, no cluster
	cargo test --locked --lib --bins --test layers --test sidecar
	tests/cluster/example-app
	target/example-app/bin/python3 -m unittest discover --quiet --start-directory examples/apps/tests

test-postgres: ## The ledger's promises on a PostgreSQL server of its own (of the machine's packages)
	tests/cluster/postgres
	cargo test --locked --lib ledger::postgres -- --ignored

test-fuzz: ## Every parser of outside bytes, a second each (FUZZ_SECONDS, FUZZ_SEED, FUZZ_TARGET)
	cargo test --quiet --locked --test fuzz

fuzz-coverage: ## How much of each parser of outside bytes those reach, in target/bench/fuzz-coverage.json (FUZZ_SECONDS)
	tests/cluster/fuzz-coverage

test-simulation: ## A million random histories of leases, crashes and lost messages (SIM_SCHEDULES, SIM_SEED, SIM_STORED)
	tests/cluster/postgres
	cargo test --quiet --locked --test simulation

test-model: ## Every history of a few calls (MODEL_SCENARIO)
	cargo test --quiet --locked --test model

test-conformance: ## Real SDKs through a sidecar, and the provider's bill against the ledger to the pico-dollar
	cargo build --locked --bin spendkeeper --bin spendkeeper-test-provider
	tests/cluster/conformance

test-api: ## Against a real API server, without a kubelet
	tests/cluster/build $(CLUSTER)
	tests/cluster/postgres
	cargo test --locked --test api -- --test-threads 8

test-e2e: ## On a full cluster with real pods (root)
	tests/cluster/build $(CLUSTER)
	tests/cluster/release
	tests/cluster/e2e

lint: ## Formatting, clippy, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	tests/cluster/deny

lint-chart: ## helm lint --strict
	tests/cluster/build $(CLUSTER)
	$(CLUSTER)/bin/helm lint --strict charts/spendkeeper

words: ## Write src/llm/words.txt from the public vocabularies
	WORDS=write cargo test --quiet --locked --lib the_list_is_that_of_both_vocabularies

generate: ## Write crds/ and docs/reference/ from the Rust types
	cargo run --quiet --bin spendkeeper-generate

build: ## The release binaries, linked statically
	tests/cluster/release --all

# Linked as `tests/cluster/release` links, but without its profile: the sidecar that is measured is the released one, not one that is built here.
# On two CPUs, whatever the machine has.
BENCH := cargo bench --locked --target x86_64-unknown-linux-gnu
bench-proxy bench-ledger bench-leases: export RUSTFLAGS = -C target-feature=+crt-static
bench-proxy profile-proxy: export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER = taskset -c 0,1

bench-proxy: export SPENDKEEPER_BENCH_SIDECAR = $(CURDIR)/target/dist/spendkeeper-sidecar
bench-proxy: build ## The sidecar beside other proxies and beside none, in target/bench/*.json (ONLY: names of shapes and tables)
	$(BENCH) --bench proxy -- $(ONLY)

# With frame pointers and line tables, in a folder of its own: what is released has neither.
profile-proxy: export RUSTFLAGS = -C target-feature=+crt-static -C force-frame-pointers=yes
profile-proxy: export CARGO_PROFILE_BENCH_DEBUG = 1
profile-proxy: export CARGO_PROFILE_BENCH_STRIP = none
profile-proxy: ## What costs what in the sidecar, by perf (ONLY: names of shapes)
	$(BENCH) --target-dir target/profile --bench proxy -- --profile $(ONLY)

train: ## Record what the sidecar does under load, for what is hot to be compiled for speed (benches/proxy/sidecar.profdata)
	benches/proxy/train

bench-ledger: ## Leases and reports a second, queries over months, a million keys, in target/bench/ledger*.json (ONLY: disk, sqlite, postgres, replicas, months, keys)
	$(BENCH) --bench ledger -- $(ONLY)

bench-leases: ## How often sidecars ask for leases, and how much of a limit can be used, in target/bench/leases.json
	$(BENCH) --bench leases

# Nothing in it depends on how fast it is, so that it needs no release build. TRACE as below.
bench-backtest: ## Alerts on series whose end is known, in target/bench/backtest.json and docs/forecast.md
	TRACE=$(TRACE) cargo bench --locked --profile dev --bench backtest

# Counts, not times: the profile does not matter.
bench-reservation: ## What calls set aside for their input against what public tokenizers count, in target/bench/reservation.json
	cargo bench --quiet --locked --profile dev --bench reservation

# Of a release where there is one; TRACE is a file of TIMESTAMP, ContextTokens, GeneratedTokens, and CALLS how many are mixed.
bench-accounting: ## The provider's bill against the ledger under load, in target/bench/accounting.json
	tests/cluster/conformance --bench $(if $(TRACE),--trace $(TRACE)) $(if $(CALLS),--calls $(CALLS))

bench-overspend: ## Attacks on a budget of a dollar, kept by Spendkeeper and by LiteLLM, in target/bench/overspend.json (ROUNDS)
	tests/cluster/conformance --overspend $(if $(ROUNDS),--rounds $(ROUNDS))

bench-replay: ## TRACE through twenty sidecars against a budget worth two thirds of it, in target/bench/replay.json (SPEED)
	@test -n "$(TRACE)" || { echo "TRACE=FILE is missing: lines of TIMESTAMP,ContextTokens,GeneratedTokens" >&2; exit 2; }
	tests/cluster/build $(CLUSTER)
	TRACE=$(abspath $(TRACE)) cargo test --locked --test api -- --ignored --nocapture an_hour_of_real_traffic
