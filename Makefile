# The two commands of the README, and what people who work on mvm run.

CARGO ?= cargo
MVMCTL := target/release/mvmctl
# What the tests run with: the program that cargo's tests have built, in a home of its own.
TESTED := PATH="$(CURDIR)/target/debug:$$PATH" MVM_HOME="$(CURDIR)/target/tmp/mvm-home"

.PHONY: demo test conformance lifecycle deps test-deps build lint fmt bench boots faults openapi schemas fuzz clean

## Installs what is missing, builds, sets up, and says hello from inside a microVM.
demo: build
	$(MVMCTL) setup
	$(MVMCTL) run -- python3 -c 'import platform; print("hello from", platform.node(), platform.release())'

## Installs what is missing and runs every test, in real machines.
test: test-deps lint
	$(CARGO) test --workspace --locked
	$(TESTED) /usr/bin/python3 conformance/raw_client.py
	$(TESTED) /usr/bin/python3 conformance/api_test.py
	$(TESTED) /usr/bin/python3 conformance/docs_test.py
	$(TESTED) /usr/bin/python3 conformance/policy_test.py
	$(TESTED) /usr/bin/python3 conformance/evidence_test.py
	$(TESTED) /usr/bin/python3 conformance/faults.py
	@$(MAKE) --no-print-directory conformance

## Runs the conformance cases on every surface, and holds the lifecycle matrix to what they did.
conformance: test-deps
	$(CARGO) build --workspace --locked
	$(TESTED) mvmctl setup --image base
	$(TESTED) /usr/bin/python3 conformance/run.py

## The same, and writes the matrix anew.
lifecycle: test-deps
	$(CARGO) build --workspace --locked
	$(TESTED) mvmctl setup --image base
	$(TESTED) /usr/bin/python3 conformance/run.py --write

deps:
	@scripts/install-deps.sh

test-deps:
	@scripts/install-deps.sh tests

build: deps
	$(CARGO) build --release --locked

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

fmt:
	$(CARGO) fmt --all

## Kills clients, supervisors and machines at random moments, as `test` does: make faults ROUNDS=1000 SEED=2
faults: build
	PATH="$(CURDIR)/target/release:$$PATH" /usr/bin/python3 conformance/faults.py --rounds $(or $(ROUNDS),200) --seed $(or $(SEED),1)

## Writes the document of the API on each sandbox's socket.
openapi: build
	$(MVMCTL) openapi > docs/openapi.json

## Writes the JSON Schema of plans. That of profiles is written by hand.
schemas: build
	$(MVMCTL) policy schema plan > docs/schemas/plan.schema.json

## Measures this machine and writes the figures into docs/performance.md.
bench: build
	$(MVMCTL) bench --markdown docs/performance.md

## Boots 100 guests afresh and counts the failures: make boots BOOTS=100 MVM_QEMU=/path/to/qemu-system-x86_64
boots: build
	scripts/boot-check.sh $(or $(BOOTS),100)

## Feeds random input to everything that parses what others wrote, for FUZZ_SECONDS each: make fuzz FUZZ_SECONDS=600
fuzz:
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),20)

clean:
	$(CARGO) clean
