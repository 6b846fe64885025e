# What needs more than `cargo test --workspace`: real etcd's programs, built from pinned Go modules, and minutes of time.

TOOLS ?= target/e2e-tools
E2E = QUORATE_ETCD_BIN_DIR=$(abspath $(TOOLS)/bin) target/release/e2e

SEEDS ?= 2000
# Of each fuzz target.
SECONDS ?= 60
COUNT ?= 2000

# What tells most of the operator on Kubernetes.
KUBE_SHORT = definitions refused samples kustomize install quick-start pod-deleted container-killed volume-deleted \
  flag-changed scale operator-killed bad-specs node-deleted acknowledged quorum-lost rights

.PHONY: help tools kube-tools release images simulate simulate-operator mutants powercuts fuzz e2e-local e2e-kube e2e-kube-short e2e-kubernetes-store overload chaos bench conformance

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

tools: ## etcd, etcdctl, etcdutl and benchmark (needs Go)
	e2e/tools/build.sh $(TOOLS)

kube-tools: ## and Kubernetes, coredns, local-path-provisioner, helm and versitygw (needs Go; the first time about 10 minutes)
	e2e/tools/build.sh $(TOOLS) etcd kube helm s3

release: ## our programs
	cargo build --release --workspace --exclude simulator-operator --bins

simulate: ## so many seeds of simulated clusters that break (SEEDS=2000, or MINUTES=480 for a night)
	cargo run --profile simulate -p simulator --bin simulate -- $(if $(MINUTES),--minutes $(MINUTES),--seeds $(SEEDS))

simulate-operator: ## every fault of every scenario of the operator (EVERY=10 for a tenth of them, LIMIT=1200 for an end, in seconds)
	cargo run --profile simulate -p simulator-operator -- explore $(or $(EVERY),1) $(or $(LIMIT),86400)

mutants: ## planted bugs, and how soon the simulator finds each
	cargo run --profile simulate -p simulator --bin simulate --features mutants --target-dir target/mutants -- mutants

fuzz: ## every decoder of bytes from outside, SECONDS=60 each (needs a C++ compiler; TARGETS= selects)
	fuzz/run $(SECONDS) $(TARGETS)

powercuts: release ## so many real power cuts under load, and a control that must lose something (COUNT=2000; needs root, xfsprogs)
	$(E2E) power-cuts --cuts $(COUNT)

e2e-local: release tools ## every suite on processes of this machine, some minutes
	$(E2E) etcdctl
	$(E2E) exchange
	$(E2E) mixed
	$(E2E) repair
	$(E2E) recovery
	$(E2E) rotation
	$(E2E) bad-input
	$(E2E) chaos --kills 10 --stalls 3 --blackouts 3

images: ## both images into target/images, as localhost/quorate:dev and localhost/quorate-server:dev
	images/build.sh target/images

e2e-kube: release kube-tools images ## the suite on a real Kubernetes of three nodes on this machine (needs root; CASES= selects)
	QUORATE_KUBE_BIN_DIR=$(abspath $(TOOLS)/bin) $(E2E) kube --images target/images $(CASES)

e2e-kube-short: release kube-tools images ## of the same the cases that tell most
	QUORATE_KUBE_BIN_DIR=$(abspath $(TOOLS)/bin) $(E2E) kube --images target/images $(KUBE_SHORT)

e2e-kubernetes-store: release kube-tools ## a real Kubernetes that keeps everything in three of our members (needs root; NODES=0: without kubelets)
	QUORATE_KUBE_BIN_DIR=$(abspath $(TOOLS)/bin) $(E2E) kubernetes-store $(if $(NODES),--nodes $(NODES))

overload: release ## four times what three members can do, and connections that are held and not used
	$(E2E) overload

chaos: release ## 50 kills, 10 stalls, 10 blackouts under load
	$(E2E) chaos

bench: release tools ## real etcd and ours in turn
	$(E2E) bench

conformance: release tools ## etcd's own suite on our server, with its etcdctl and with ours
	e2e/tools/build.sh $(TOOLS) suite
	$(E2E) conformance --ctl upstream
	$(E2E) conformance --ctl ours
