# Coracle. `make help` lists the targets.

SHELL       := /bin/bash
GO          ?= go
TAGS        := seccomp netgo osusergo
VERSION     ?= v1.37.2+coracle.0.1
LDFLAGS     := -s -w -X coracle/internal/version.Version=$(VERSION) -X k8s.io/component-base/version.gitVersion=$(VERSION) -extldflags -static
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
export CGO_ENABLED := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what building and testing need (Debian packages; as root)
	@scripts/install-deps

.PHONY: build
build: ## Build bin/coracle, static and stripped
	@scripts/install-deps build
	@mkdir -p bin
	@# kustomize's plugin loader, which a static binary cannot use and kubectl does not, draws a linker warning
	$(GO) build -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/coracle ./cmd/coracle 2> >(grep -v -e pluginOpen -e plugin_dlopen -e '^# coracle/cmd/coracle$$' >&2)

.PHONY: demo
demo: build ## Start a three-node cluster and run the three counter workloads on it
	@scripts/demo

.PHONY: test
test: deps ## Run all tests (as root: they run real containers)
	@scripts/test

.PHONY: race
race: deps ## Run the tests of every concurrent room under the race detector
	$(GO) test -race -short -tags '$(TAGS)' -timeout 20m ./internal/...

.PHONY: check
check: deps ## Check format, vet, lint and the rules of the house
	@test -z "$$(gofmt -l cmd internal examples test)" || { gofmt -l cmd internal examples test; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet -tags '$(TAGS)' ./...
	@# Modules of their own are compiled by nothing else: what changes under them would break them unseen
	cd test/bench/engines && $(GO) vet ./...
	cd test/critest && CGO_ENABLED=0 $(GO) vet ./...
	cd examples/systems/web && CGO_ENABLED=0 $(GO) vet ./...
	$(GO) run $(GOLANGCI) run --build-tags '$(subst $() $(),$(comma),$(TAGS))'
	$(GO) test ./internal/archtest/...

.PHONY: bench
bench: build ## Measure start-up, memory, idle CPU and writes; run the Go benchmarks
	@scripts/bench

.PHONY: abuse
abuse: build ## Attack a cluster from all sides and print how its administrator and nodes fare
	@scripts/abuse

.PHONY: sim
sim: ## Run 2,000 simulated clusters and find every planted defect
	$(GO) test ./internal/sim -v -run '^Test' -sim.worlds 2000 -timeout 28m | grep -vE '^(=== |    --- PASS)'; exit $${PIPESTATUS[0]}

.PHONY: sim-small
sim-small: ## Explore small simulated clusters whole: DEPTH events (6) in all orders, DEPARTURES (2) to the end
	$(GO) test ./internal/sim -v -run '^TestSmall$$' -sim.wide -sim.depth $(or $(DEPTH),6) -sim.departures $(or $(DEPARTURES),2) -timeout 0

.PHONY: sim-long
sim-long: ## Simulate clusters until stopped or one fails; FROM=seed sets the first
	$(GO) test ./internal/sim -v -run '^TestWorlds$$' -sim.long -sim.from $(or $(FROM),100000) -timeout 0

.PHONY: properties
properties: ## Hold every property against CHECKS (2,000) cases that no run before has drawn
	@scripts/properties $(or $(CHECKS),2000)

.PHONY: dns-long
dns-long: ## Fuzz the name server with packets; FOR=1m
	$(GO) test ./internal/dns -run '^$$' -fuzz '^FuzzAnswer$$' -fuzztime $(or $(FOR),1m)

.PHONY: fuzz
fuzz: ## Send an API server random requests, each with a bound on memory and time; FOR=10m, SEED=1
	$(GO) test ./test/fuzz -tags '$(TAGS)' -v -run '^TestRandomRequests$$' -fuzz.for $(or $(FOR),10m) -fuzz.seed $(or $(SEED),1) -timeout 0

.PHONY: removal-long
removal-long: ## Remove 5,000 random trees with mounts and links in them, then fuzz for a minute (as root)
	$(GO) test ./internal/filetree -run '^TestModel$$' -filetree.scenes 5000 -timeout 30m
	$(GO) test ./internal/filetree -run '^$$' -fuzz '^FuzzRemove$$' -fuzztime 1m

.PHONY: durability
durability: ## Kill servers of CLUSTERS (2) KILLS times in all (10,000) under writers and watchers, and say how it goes
	$(GO) test -tags '$(TAGS)' ./test/durability -v -count 1 -run '^TestKills$$' -durability.kills $(or $(KILLS),10000) -durability.clusters $(or $(CLUSTERS),2) -timeout 0

.PHONY: damage
damage: ## Damage every byte of stores of all shapes
	$(GO) test ./internal/store/engine/wal -count 1 -run 'Damage|BeyondTheMark' -wal.every -timeout 0

.PHONY: critest
critest: build ## Hold the runtime against cri-tools' validation suite; FOCUS=regexp for a part of it
	cd test/critest && CGO_ENABLED=0 $(GO) test . && CGO_ENABLED=0 $(GO) test -c -o ../../bin/critest-suite ./suite && CGO_ENABLED=0 $(GO) build -o ../../bin/critest .
	bin/critest $(if $(FOCUS),-focus '$(FOCUS)')

.PHONY: deletions
deletions: deps ## Delete 1,000 pods of a StatefulSet with KUBECTL=path (or the one on the PATH): every command must end
	CORACLE_E2E_KUBECTL='$(KUBECTL)' $(GO) test -tags '$(TAGS)' ./test/e2e -v -count 1 -run '^TestDeletionsEnd$$' -deletions 1000 -deletions.workers 8 -timeout 0

.PHONY: rollouts
rollouts: deps ## Update, scale and drain servers 100 times under 2,000 requests a second, a million at least: none may fail
	@scripts/rollouts $(or $(ROUNDS),100) $(or $(RATE),2000) $(or $(REQUESTS),1000000)

.PHONY: systems
systems: deps ## Run real systems on a cluster: etcd, Redis, PostgreSQL, ZooKeeper, a web application, exporters, controllers
	@scripts/system-image --download postgres zookeeper
	$(GO) test -tags '$(TAGS)' ./test/e2e -v -count 1 -run '^TestSystems' -systems.long -timeout 20m

.PHONY: leaks
leaks: deps ## Start STARTS (1,000) pods under a policy that denies all, and count the packets that get through: none may
	$(GO) test -tags '$(TAGS)' ./test/e2e -v -count 1 -run '^TestNoPacketLeaks$$' -leaks $(or $(STARTS),1000) -timeout 0

.PHONY: starts
starts: deps ## Start pods one by one (STARTS=20) and at once (ATONCE=50), and tell times, processor time by process and requests
	$(GO) test -tags '$(TAGS)' ./test/e2e -v -count 1 -run '^TestPodStarts$$' -starts $(or $(STARTS),20) -starts.atonce $(or $(ATONCE),50) -timeout 0

.PHONY: churn
churn: deps ## Change workloads and kill everything for ROUNDS rounds, then compare the whole machine
	$(GO) test -tags '$(TAGS)' ./test/e2e -v -run '^TestChurn$$' -churn.rounds $(or $(ROUNDS),100) -churn.seed $(or $(SEED),1) -timeout 0

.PHONY: peers
peers: build ## Measure services beside kube-proxy and names beside CoreDNS; SIZES=100x10,1000x10 CHANGES=200 FOR=3s
	@SIZES='$(SIZES)' CHANGES='$(CHANGES)' FOR='$(FOR)' scripts/peers

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin

comma := ,
