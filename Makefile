# The two commands of the README, and what people who work on mvm run.

CARGO ?= cargo
MVMCTL := target/release/mvmctl
# What the tests run with: the program that cargo's tests have built, in a home of its own.
TESTED := PATH="$(CURDIR)/target/debug:$$PATH" MVM_HOME="$(CURDIR)/target/tmp/mvm-home"
# The packages of the SDKs carry mvmctl as it is built in this profile: release, or debug, which the tests build anyway.
PROFILE := release
PACKAGES := $(CURDIR)/target/packages/$(PROFILE)
PACKED := $(PACKAGES)/mvmctl
# The tools that check and test the SDKs, in the versions that are pinned.
DEV := $(CURDIR)/target/sdks/dev
PIP := /usr/bin/python3 -m pip --disable-pip-version-check
NODE_DEV := sdk/typescript/node_modules/.package-lock.json

.PHONY: demo test conformance lifecycle deps test-deps build lint fmt bench boots faults openapi schemas fuzz bench-sdks clean
.PHONY: packages wheel npm-package packed sdk-tools sdk-types sdk-lint sdk-test

## Installs what is missing, builds, sets up, and says hello from inside a microVM.
demo: build
	$(MVMCTL) setup
	$(MVMCTL) run -- python3 -c 'import platform; print("hello from", platform.node(), platform.release())'

## Installs what is missing and runs every test, in real machines.
test: test-deps lint sdk-lint
	$(CARGO) test --workspace --locked
	@$(MAKE) --no-print-directory sdk-test
	$(TESTED) /usr/bin/python3 conformance/packages_test.py
	$(TESTED) /usr/bin/python3 conformance/raw_client.py
	$(TESTED) /usr/bin/python3 conformance/api_test.py
	$(TESTED) /usr/bin/python3 conformance/docs_test.py
	$(TESTED) /usr/bin/python3 conformance/sdk_docs_test.py
	$(TESTED) /usr/bin/python3 conformance/workflows_test.py
	$(TESTED) /usr/bin/python3 conformance/debian_test.py
	$(TESTED) /usr/bin/python3 conformance/policy_test.py
	$(TESTED) /usr/bin/python3 conformance/evidence_test.py
	$(TESTED) /usr/bin/python3 conformance/faults.py
	@$(MAKE) --no-print-directory conformance

## Runs the conformance cases on every surface, and holds the lifecycle matrix to what they did.
conformance: test-deps
	$(CARGO) build --workspace --locked
	@scripts/install-sdks.sh debug
	$(TESTED) mvmctl setup --image base
	$(TESTED) /usr/bin/python3 conformance/run.py

## The same, and writes the matrix anew.
lifecycle: test-deps
	$(CARGO) build --workspace --locked
	@scripts/install-sdks.sh debug
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

## Packs both SDKs with mvmctl inside, into target/packages/release, or as the tests do: make packages PROFILE=debug
packages: wheel npm-package

## The Python SDK's wheel.
wheel: packed
	@scripts/install-deps.sh python
	@rm -f $(PACKAGES)/mvm-*.whl
	MVM_BINARY=$(PACKED) $(PIP) wheel --quiet --no-deps --wheel-dir $(PACKAGES) ./sdk/python

## The TypeScript SDK's tarball, put together beneath target/: a program in sdk/typescript would be what its tests find.
npm-package: packed $(NODE_DEV)
	@rm -rf $(PACKAGES)/npm $(PACKAGES)/mvm-sdk-*.tgz && mkdir -p $(PACKAGES)/npm/bin
	sdk/typescript/node_modules/.bin/tsc -p sdk/typescript/tsconfig.build.json --outDir $(PACKAGES)/npm/dist
	cp LICENSE sdk/typescript/package.json sdk/typescript/README.md $(PACKAGES)/npm
	ln $(PACKED) $(PACKAGES)/npm/bin
	npm pack --silent --pack-destination $(PACKAGES) $(PACKAGES)/npm
	@rm -r $(PACKAGES)/npm

packed: deps
	$(CARGO) build --quiet --locked $(if $(filter debug,$(PROFILE)),,--profile $(PROFILE))
	@mkdir -p $(PACKAGES)
	strip --strip-debug -o $(PACKED) target/$(PROFILE)/mvmctl

## Writes what is generated: the SDKs' API types, the synchronous half of the Python SDK, and the reference of SDKs and workloads.
sdk-types: $(NODE_DEV)
	cd sdk && /usr/bin/python3 -m codegen
	cd sdk/typescript && npm run --silent reference

sdk-tools: $(DEV)/made $(NODE_DEV)

sdk-lint: sdk-tools
	cd sdk && /usr/bin/python3 -m codegen --check
	cd sdk/python && $(DEV)/bin/ruff check . && $(DEV)/bin/ruff format --check --quiet .
	cd sdk/python && $(DEV)/bin/mypy src/mvm && $(DEV)/bin/pyright --pythonpath $(DEV)/bin/python src
	cd sdk/typescript && npm run --silent lint

## Tests both SDKs with the mvmctl that the Rust tests have built.
sdk-test: sdk-tools
	$(CARGO) build --workspace --locked
	$(TESTED) mvmctl setup --image base
	cd sdk/python && $(TESTED) $(DEV)/bin/pytest
	cd sdk/typescript && $(TESTED) npm test --silent

$(DEV)/made: sdk/python/requirements-dev.txt sdk/python/pyproject.toml
	@scripts/install-deps.sh python
	/usr/bin/python3 -m venv --clear --without-pip $(DEV)
	$(PIP) --python $(DEV)/bin/python install --quiet -r sdk/python/requirements-dev.txt -e sdk/python
	@touch $@

$(NODE_DEV): sdk/typescript/package-lock.json
	@scripts/install-deps.sh node
	npm ci --prefix sdk/typescript --silent
	@touch $@

## Kills clients, supervisors and machines at random moments, as `test` does: make faults ROUNDS=1000 SEED=2
faults: build
	PATH="$(CURDIR)/target/release:$$PATH" /usr/bin/python3 conformance/faults.py --rounds $(or $(ROUNDS),200) --seed $(or $(SEED),1)

## Writes the document of the API on each sandbox's socket.
openapi: build
	$(MVMCTL) openapi > docs/openapi.json

## Writes the JSON Schemas of plans and of workloads. That of profiles is written by hand.
schemas: build
	$(MVMCTL) policy schema plan > docs/schemas/plan.schema.json
	$(MVMCTL) policy schema workload > docs/schemas/workload.schema.json

## Measures this machine and writes the figures into docs/performance.md.
bench: build
	$(MVMCTL) bench --markdown docs/performance.md

## Measures the SDKs against the command line, and writes the figures into docs/performance.md.
bench-sdks: build
	@scripts/install-sdks.sh release
	PATH="$(CURDIR)/target/release:$$PATH" /usr/bin/python3 sdk/bench/run.py --markdown docs/performance.md

## Boots 100 guests afresh and counts the failures: make boots BOOTS=100 MVM_QEMU=/path/to/qemu-system-x86_64
boots: build
	scripts/boot-check.sh $(or $(BOOTS),100)

## Feeds random input to everything that parses what others wrote, for FUZZ_SECONDS each: make fuzz FUZZ_SECONDS=600
fuzz:
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),20)

clean:
	$(CARGO) clean
