# Everything goes through these targets, on a laptop and in CI alike. See README.md.

CARGO ?= cargo
# Tests and demo need root: they make network namespaces and load BPF programs. The build does not.
SUDO := $(shell [ "$$(id -u)" = 0 ] && echo env || echo sudo -E)
TARGET_DIR := $(shell $(CARGO) metadata --no-deps --format-version 1 2>/dev/null | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
BIN := $(TARGET_DIR)/debug
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

DOCKER ?= docker
REGISTRY ?= localhost/waymark
VERSION ?= 0.1.0

CRDS := deploy/helm/waymark/crds

.PHONY: all helm images demo demo-kubernetes test test-kernels fuzz-kernel accuracy oracles setup build check crds envtest clean-testbed bench-watch bench-check bench-overhead bench-flood bench-sim

all: build

## demo: build, bring a cluster of namespaces up, check it, break it, find the fault, clean up
demo: build
	$(SUDO) $(BIN)/waymark-testbed demo

## demo-kubernetes: the four uses on a real control plane: checks, culprits, an outage, validated changes
demo-kubernetes: build
	$(SUDO) $(BIN)/waymark-testbed demo --kubernetes

## test: every test there is, and the accuracy on a few faults of each kind
test: build
	@deploy/helm/fetch.sh >/dev/null || echo "Without helm the tests of the chart are left out."
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) test --workspace --locked
	$(SUDO) $(BIN)/waymark-testbed accuracy --subset --healthy 50

## test-kernels: kernels of Debian's releases boot in QEMU and run the tracer's tests, alone and two as one cluster
test-kernels: build
	@testbed/kernels/fetch.sh
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) test --workspace --locked --test kernels -- \
		--include-ignored --skip the_oldest_kernel --skip the_newest_kernel --test-threads=2 --nocapture

## fuzz-kernel: the predictor against this machine's kernel: CASES packets through random configurations from SEED on
CASES ?= 1000000
SEED ?= 1
FIXTURES ?= target/fuzzed
fuzz-kernel: build
	@mkdir -p $(FIXTURES)
	$(SUDO) $(BIN)/waymark-testbed fuzz --seed $(SEED) --cases $(CASES) --fixtures $(FIXTURES) --failures 10

## accuracy: every fault on every dataplane, and healthy flows, as a table
accuracy: build
	$(SUDO) $(BIN)/waymark-testbed accuracy

## oracles: every fault on every dataplane again, while tcpdump, nft, perf and counters tell what Waymark should see
oracles: build
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) test --workspace --locked --test oracles -- --ignored --nocapture

## bench-watch: what continuous probing costs, beside ping
bench-watch: setup
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) bench --package waymark-prober --bench watch --locked

## bench-overhead: what armed tracers cost packets that are not theirs
bench-overhead: setup
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) bench --package waymark-prober --bench overhead --locked

## bench-flood: how many marked packets a second a tracer keeps up with
bench-flood: setup
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) bench --package waymark-prober --bench flood --locked

## bench-check: how long checks take, beside ping, one alone and 200 at once
bench-check: setup
	$(CARGO) build --release --workspace --locked
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) bench --package waymark-testbed --bench check --locked

## bench-sim: what predictions cost, beside the kernel and iptables-restore
bench-sim: setup
	CARGO_TARGET_$(TRIPLE)_RUNNER="$(SUDO)" $(CARGO) bench --package waymark-testbed --bench sim --locked

## check: formatting, lints, generated files
check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(MAKE) crds
	git diff --exit-code -- $(CRDS)

## crds: write the definitions of the custom resources for the chart, from the Rust types
crds: setup
	$(CARGO) run --quiet --locked --package waymark-controller --bin crdgen -- --out $(CRDS)

## envtest: build the programs of a Kubernetes control plane, once, for tests and `waymark-testbed up --kubernetes`
envtest:
	@testbed/envtest/build.sh

build: setup
	$(CARGO) build --workspace --locked
	ln -sf waymark $(BIN)/kubectl-waymark

## helm: put helm into the cache, for the tests of the chart, unless it is installed
helm:
	@deploy/helm/fetch.sh

## images: build both container images; needs docker, or a DOCKER that is like it
images:
	for image in controller agent; do \
		$(DOCKER) build --file deploy/images/Dockerfile --target $$image --tag $(REGISTRY)/waymark-$$image:$(VERSION) . || exit 1; \
	done

## setup: install the system packages that are missing
setup:
	@deploy/setup.sh

## clean-testbed: remove a testbed that was left running
clean-testbed: build
	$(SUDO) $(BIN)/waymark-testbed down
