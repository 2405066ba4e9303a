# bladeflow. `make` alone lists what can be done; a newcomer needs `make demo` and `make test`.
SHELL := /bin/bash
GO ?= go
T ?= 1m
NIC ?=
export GOFLAGS ?= -buildvcs=false
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/bladeflow
	@command -v $(GO) >/dev/null || { echo "make: go: not found: install Go 1.26 or later and put it on PATH" >&2; exit 2; }
	@mkdir -p bin
	$(GO) build -trimpath -ldflags "-X main.commit=$$(git rev-parse HEAD 2>/dev/null)" -o bin/bladeflow ./cmd/bladeflow

.PHONY: demo
demo: build ## emulate a chassis, send packets, show where each rule is answered and that both paths agree (root)
	@exec bin/bladeflow demo

.PHONY: test
test: ## everything: lint, unit, race, lab and packet tests, make vm (root); installs gcc, chromium-headless-shell and QEMU if they are missing
	@exec .ci/test

.PHONY: check
check: lint ## what needs no root: lint and tests of the pure packages
	$(GO) test ./...

.PHONY: lint
lint: ## gofmt, vet (arm64 and purego too, where there is code for one machine) and staticcheck
	@bad=$$(git ls-files '*.go' | xargs gofmt -l); [ -z "$$bad" ] || { echo "gofmt would change: $$bad" >&2; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./flow/... ./matcher/... ./offload/... ./fallback/... ./hwtests/netns ./hwtests/observe
	$(GO) vet -tags purego ./matcher/...
	@mkdir -p bin && $(GO) -C tools build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...

.PHONY: generate
generate: ## rebuild the generated files (clang-14, llvm-14, libbpf-dev) and fail if they differ from the committed ones
	@for p in clang-14 llvm-strip-14; do command -v $$p >/dev/null || { echo "make: installing clang-14 llvm-14 libbpf-dev"; apt-get update -qq && apt-get install -y -qq clang-14 llvm-14 libbpf-dev; break; }; done
	@mkdir -p bin && $(GO) -C tools build -o ../bin/bpf2go github.com/cilium/ebpf/cmd/bpf2go
	PATH=$(CURDIR)/bin:$$PATH $(GO) generate ./...
	git diff --exit-code -- '*.go' '*.o' '*.s'
	cd matcher/internal/gen && $(GO) vet ./... && $(GO) test ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for T each (make fuzz T=5m)
	@set -e; for pkg in $$($(GO) list ./...); do dir=$$($(GO) list -f '{{.Dir}}' $$pkg); \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go 2>/dev/null | awk '{print $$2}'); do \
	    echo "== $$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(T); done; done

# Both sides are built first and run in turn, so that what else the machine does disturbs them alike.
REF ?= HEAD
PKG ?= ./matcher
BENCH ?= ^Benchmark(Lookup|Explain)$$
N ?= 10
.PHONY: bench
bench: ## compare benchmarks with those of a base commit (make bench REF=main PKG=./flow BENCH=Parse N=10)
	@set -e; mkdir -p bin; base=$$(mktemp -d); trap 'rm -rf "$$base"' EXIT; git archive $(REF) | tar -x -C "$$base"; \
	  $(GO) -C tools build -o ../bin/benchstat golang.org/x/perf/cmd/benchstat; \
	  (cd "$$base" && $(GO) test -c -o bench.test $(PKG)); $(GO) test -c -o "$$base/new.test" $(PKG); \
	  for i in $$(seq $(N)); do \
	    (cd $(PKG) && "$$base/bench.test" -test.run '^$$' -test.bench '$(BENCH)' -test.benchtime 200ms >>"$$base/base.txt"); \
	    (cd $(PKG) && "$$base/new.test" -test.run '^$$' -test.bench '$(BENCH)' -test.benchtime 200ms >>"$$base/new.txt"); done; \
	  bin/benchstat $(REF)="$$base/base.txt" new="$$base/new.txt"

.PHONY: bench-peers
bench-peers: ## compare the matcher with DPDK's rte_acl (installs libdpdk-dev and gcc); BLADEFLOW_CLASSBENCH=DIR adds sets
	@pkg-config --exists libdpdk 2>/dev/null || { echo "make: installing libdpdk-dev gcc pkg-config"; apt-get update -qq && apt-get install -y -qq libdpdk-dev gcc pkg-config; }
	@mkdir -p bin
	gcc -O3 $$(pkg-config --cflags libdpdk) matcher/internal/peers/rteacl/rteacl.c -o bin/rteacl $$(pkg-config --libs libdpdk)
	BLADEFLOW_RTEACL=$(CURDIR)/bin/rteacl $(GO) test -run '^$$' -bench Peers -benchtime 1x -timeout 60m ./matcher/internal/peers

.PHONY: long-fleet
long-fleet: ## 200 simulated agents on one embedded store: changes on all of them, and all of them coming back; writes docs/results/fleet.json
	@mkdir -p docs/results
	BLADEFLOW_FLEET=200 $(GO) test -count=1 -timeout 10m -v -run '^TestFleet$$' ./fabric/agent

.PHONY: long-drift
long-drift: ## 1,000 entries of a card changed behind the agent's back, 20 at a time; writes docs/results/drift.json
	@mkdir -p docs/results
	BLADEFLOW_DRIFT=1000 $(GO) test -count=1 -timeout 20m -v -run '^TestDrifts$$' ./fabric/agent

.PHONY: hardware
hardware: ## write the tables of HARDWARE.md anew, from device models and recorded runs
	$(GO) test -count=1 -run '^TestHardware$$' ./offload/device -update

.PHONY: modelcheck
modelcheck: ## model-check the update protocol for T on all cores (make modelcheck T=1h)
	BLADEFLOW_MODELCHECK=$(T) $(GO) test -count=1 -timeout 0 -v -run '^TestModelCheck$$' ./offload

.PHONY: long-modelcheck
long-modelcheck: ## a hundred million states of the update protocol, with faults and crashes; writes docs/results/modelcheck.json
	BLADEFLOW_STATES=100000000 nice -n 19 $(GO) test -count=1 -timeout 120m -v -run '^TestModelCheck$$' ./offload

.PHONY: long-mutants
long-mutants: ## a million broken tables of hardware, judged by the checker and three other exact methods; writes docs/results/mutants.json
	BLADEFLOW_MUTANTS=1000000 nice -n 19 $(GO) test -count=1 -timeout 120m -v -run '^TestMutants$$' ./offload/verify

.PHONY: long-placement
long-placement: ## hit rates of plans against the bound, sets of 10,000 rules; BLADEFLOW_CLASSBENCH=DIR adds sets; writes docs/results/placement.json
	BLADEFLOW_PLACEMENT=1 $(GO) test -count=1 -timeout 60m -v -run '^TestPlacement$$' ./offload

.PHONY: long-pairs
long-pairs: ## plans for a million random rule sets on random devices, each proved; writes docs/results/pairs.json
	BLADEFLOW_PAIRS=1000000 nice -n 19 $(GO) test -count=1 -timeout 120m -v -run '^TestPairs$$' ./offload

.PHONY: long-churn
long-churn: ## 300 epochs of drifting traffic; writes docs/results/churn.json
	BLADEFLOW_CHURN=300 $(GO) test -count=1 -timeout 30m -v -run '^TestChurn$$' ./offload

.PHONY: long-updates
long-updates: ## a million random updates in every lane, compared with the definition again and again
	@mkdir -p docs/results
	BLADEFLOW_UPDATES=1000000 $(GO) test -count=1 -timeout 60m -v -run '^TestUpdates$$' ./matcher

.PHONY: long-fuzz-datapath
long-fuzz-datapath: ## 24 CPU-minutes of fuzzing: frames into the flow cache's parser and into the whole path; writes docs/results/fuzz-datapath.json (root)
	@exec .ci/fuzz-datapath

.PHONY: long-datapath
long-datapath: build ## what a frame costs in the software datapath and in its peers; writes docs/results/datapath.json (root, 15 min; installs nftables and openvswitch-switch)
	@mkdir -p docs/results
	bin/bladeflow bench datapath --install -o json >bin/datapath.json
	mv bin/datapath.json docs/results/datapath.json

.PHONY: long-lab
long-lab: build ## every scenario on the emulated chassis, recorded in docs/results/lab.json (root, 4 min)
	@mkdir -p docs/results
	bin/bladeflow hwtest run --on lab --commit "$$(git rev-parse HEAD)" -o json >docs/results/lab.json

.PHONY: long-apply
long-apply: ## apply and revert 256 blades, 2,000 profiles and 100,000 rules in one change each; writes docs/results/apply.json
	@mkdir -p docs/results
	BLADEFLOW_APPLY=$(CURDIR)/docs/results/apply.json $(GO) test -count=1 -timeout 20m -v -run '^TestWholeFabric$$' ./fabric/manager

.PHONY: long-kills
long-kills: ## kill an agent 1,000 times in the middle of updates; writes docs/results/kills.json (root, 15 min)
	BLADEFLOW_KILLS=1000 nice -n 5 $(GO) test -count=1 -timeout 60m -v -run '^TestKills$$' ./hwtests

.PHONY: long-policy
long-policy: ## change a table 2,000 times under 260,000 packets per second; writes docs/results/policy.json (root, 12 min, before others)
	@mkdir -p docs/results
	BLADEFLOW_POLICY=2000 nice -n -10 $(GO) test -count=1 -timeout 60m -v -run '^TestChanges$$' ./hwtests

.PHONY: long-storm
long-storm: ## 30 million frames of new flows on one port beside the flows of others; writes docs/results/storm.json (root, 5 min)
	@mkdir -p docs/results
	BLADEFLOW_STORM=30000000 $(GO) test -count=1 -timeout 60m -v -run '^TestStorm$$' ./fallback

.PHONY: long-deaths
long-deaths: ## kill an agent 200 times under traffic that its flow cache knows; writes docs/results/deaths.json (root, 10 min)
	@mkdir -p docs/results
	BLADEFLOW_DEATHS=200 $(GO) test -count=1 -timeout 60m -v -run '^TestDeaths$$' ./hwtests

.PHONY: long-generations
long-generations: ## 100 million frames through the flow cache across 10,000 tables; writes docs/results/generations.json (root, 3 to 30 min)
	@mkdir -p docs/results
	BLADEFLOW_GENERATIONS=10000 nice -n 19 $(GO) test -count=1 -timeout 180m -v -run '^TestGenerations$$' ./fallback

# VM are the packages that have tests for it, in an order: VFs that were cleared are off afterwards. A machine that is not to be
# had, or too slow, is said loudly and is no failure unless BLADEFLOW_MUST names vm. BESIDE is a package and its tests for a second
# machine, which begins when the package is built: it is compiled first.
VM ?= ./offload/tcflower ./offload/ntuple ./hwtests/vm ./fabric/provision ./hwtests
RUN ?= ^Test(Kernel|Card|Netlink)
BESIDE ?= ./hwtests/vm:^TestCard(Agent|Reload)$$
IN_VM = BLADEFLOW_MUST=$${BLADEFLOW_MUST:+$$BLADEFLOW_MUST,}vm,flower,tcamsim,sriov
.PHONY: vm
vm: ## tc flower, ethtool rules and SR-IOV on a stock kernel in QEMU; gets both from apt, 140 MB the first time (root then)
	@mkdir -p bin && $(GO) build -o bin/vm ./hwtests/vm
	@bin/vm prepare $(filter $(firstword $(subst :, ,$(BESIDE))),$(VM)) $(VM); case $$? in 0) ;; 3) exit 0;; *) exit 1;; esac; $(IN_VM) bin/vm test -short -run '$(RUN)' -beside '$(BESIDE)' $(VM)

# IN_QEMU runs scenarios with a kind of card and keeps the record.
IN_QEMU = bin/bladeflow hwtest run --on vm --card $(2) $(foreach s,$(3),--scenario $(s)) --commit "$$(git rev-parse HEAD)" -o json >bin/$(1).json && mv bin/$(1).json docs/results/$(1).json

.PHONY: long-vm
long-vm: build ## every scenario in QEMU, with both kinds of cards, make vm in the long form, and tests of its runner; writes docs/results/vm.json, vm-tcamsim.json and vm-softnic.json (45 min)
	@mkdir -p bin docs/results && $(GO) build -o bin/vm ./hwtests/vm
	BLADEFLOW_MUST=vm bin/vm prepare $(VM)
	BLADEFLOW_MUST=vm $(GO) test -count=1 -v -timeout 10m -run '^Test(Machine|Stop|Reboot)$$' ./hwtests/vm
	BLADEFLOW_VM_ENTRIES=2000 BLADEFLOW_VM_ROUNDS=100 $(IN_VM) bin/vm test -v -timeout 30m -run '$(RUN)' $(VM)
	$(call IN_QEMU,vm,softnic,inventory settings entries packets vfs)
	$(call IN_QEMU,vm-tcamsim,tcamsim,demo liar moves conserve changes cutoff)
	$(call IN_QEMU,vm-softnic,softnic,demo liar moves conserve changes cutoff)

.PHONY: long-vmkills
long-vmkills: ## kill agents on the machine's card 1,000 times; writes docs/results/vmkills.json (20 min)
	@mkdir -p bin docs/results && $(GO) build -o bin/vm ./hwtests/vm
	BLADEFLOW_MUST=vm bin/vm prepare
	BLADEFLOW_VM_KILLS=1000 BLADEFLOW_VM_COMMIT=$$(git rev-parse HEAD) $(IN_VM) \
	  bin/vm test -v -timeout 150m -run '^TestCardAgentKills$$' ./hwtests/vm >bin/vmkills.log; \
	  e=$$?; cat bin/vmkills.log; sed -n 's/.*RESULT //p' bin/vmkills.log | tail -1 >docs/results/vmkills.json; exit $$e

.PHONY: clean
clean: ## remove what was built, and labs whose process is gone
	@[ ! -x bin/bladeflow ] || bin/bladeflow lab clean
	rm -rf bin
