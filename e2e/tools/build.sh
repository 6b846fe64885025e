#!/usr/bin/env bash
# Builds the programs that the end-to-end suites run against, from pinned Go modules, into DIR/bin.
#   build.sh DIR [TARGET...]
# Targets: etcd (etcd, etcdctl, etcdutl, benchmark; the default), suite (etcd's own tests/common as bin/common.test;
# DIR/etcd-fixtures names the directory of their certificates), kube (Kubernetes, coredns, local-path-provisioner), helm,
# s3 (versitygw), prom (promtool), all. Cold, on two cores: etcd and suite 1-2 minutes, kube 6, helm and s3 1 each, prom 4; Go's caches make later
# calls quick. A stamp of the versions says when nothing is to do.
set -euo pipefail
dir=$(mkdir -p "${1:?usage: build.sh DIR [etcd|suite|kube|helm|s3|prom|all]...}" && cd "$1" && pwd)
shift
bin=$dir/bin
mkdir -p "$bin"

ETCD=v3.7.3
BENCHMARK=v3.6.8 # the benchmark tool's module has no installable 3.7 release
KUBE=1.35.4
COREDNS=v1.14.7
LOCAL_PATH=v0.0.30
HELM=v3.22.0
VERSITYGW=v1.8.0
PROMETHEUS=v0.316.0

fresh() { # target versions... : whether it was built with these versions already
  local stamp=$dir/stamp-$1
  [ "$1" = etcd ] && stamp=$dir/stamp
  shift
  [ "$(cat "$stamp" 2>/dev/null)" = "$*" ] && return 0
  command -v go > /dev/null || { echo "build.sh: the Go toolchain is needed to build $*" >&2; exit 1; }
  return 1
}

built() { # target versions...
  local stamp=$dir/stamp-$1
  [ "$1" = etcd ] && stamp=$dir/stamp
  shift
  echo "$*" > "$stamp"
}

# A scratch module that imports the programs: `go install` refuses modules with replace lines.
scratch() { # name import-path...
  mkdir -p "$dir/$1" && cd "$dir/$1"
  shift
  [ -f go.mod ] || printf 'module tools\n\ngo 1.26\n' > go.mod
  { printf '//go:build tools\n\npackage tools\n\nimport (\n'; printf '\t_ "%s"\n' "$@"; printf ')\n'; } > tools.go
}

program() { # name import-path module@version
  scratch "$1" "$2"
  go get "$3"
  go mod tidy
  CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/$1" "$2"
}

build_etcd() {
  local versions="etcd $ETCD benchmark $BENCHMARK"
  fresh etcd "$versions" && return
  scratch etcd go.etcd.io/etcd/server/v3 go.etcd.io/etcd/etcdctl/v3 go.etcd.io/etcd/etcdutl/v3
  go get "go.etcd.io/etcd/server/v3@$ETCD" "go.etcd.io/etcd/etcdctl/v3@$ETCD" "go.etcd.io/etcd/etcdutl/v3@$ETCD"
  go mod tidy
  for name in server:etcd etcdctl:etcdctl etcdutl:etcdutl; do
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/${name#*:}" "go.etcd.io/etcd/${name%:*}/v3"
  done
  program benchmark go.etcd.io/etcd/v3/tools/benchmark "go.etcd.io/etcd/v3@$BENCHMARK"
  # The interaction scripts that crates/raft replays.
  go mod download go.etcd.io/raft/v3@v3.7.0
  built etcd "$versions"
}

build_suite() {
  local versions="tests $ETCD"
  fresh suite "$versions" && return
  scratch suite go.etcd.io/etcd/tests/v3/framework/e2e go.etcd.io/etcd/tests/v3/common
  # The second package holds nothing but tests, so its dependencies are asked for by name.
  go get "go.etcd.io/etcd/tests/v3@$ETCD" && go get -t go.etcd.io/etcd/tests/v3/common
  go test -c -tags e2e -o "$bin/common.test" go.etcd.io/etcd/tests/v3/common
  echo "$(go list -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3)/fixtures" > "$dir/etcd-fixtures"
  built suite "$versions"
}

build_kube() {
  local versions="kubernetes $KUBE coredns $COREDNS local-path $LOCAL_PATH"
  fresh kube "$versions" && return
  local names=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl) source
  scratch kube "${names[@]/#/k8s.io/kubernetes/cmd/}"
  if [ ! -f go.sum ]; then
    # Kubernetes replaces its own libraries with folders of its repository; their released modules are the same.
    source=$(go mod download -json "k8s.io/kubernetes@v$KUBE" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    {
      printf 'module tools\n\ngo 1.26\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$KUBE"
      grep -oE 'k8s\.io/[a-z-]+ v0\.0\.0( |$)' "$source/go.mod" | cut -d' ' -f1 | sort -u |
        sed "s#.*#\t& => & v0.${KUBE#1.}#"
      printf ')\n'
    } > go.mod
  fi
  go mod tidy
  local version=k8s.io/component-base/version client=k8s.io/client-go/pkg/version minor=${KUBE#1.}
  CGO_ENABLED=0 go build -trimpath -o "$bin/" -ldflags "-s -w -X $version.gitVersion=v$KUBE -X $client.gitVersion=v$KUBE \
    -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" "${names[@]/#/k8s.io/kubernetes/cmd/}"
  program coredns github.com/coredns/coredns "github.com/coredns/coredns@$COREDNS"
  program local-path-provisioner github.com/rancher/local-path-provisioner \
    "github.com/rancher/local-path-provisioner@$LOCAL_PATH"
  built kube "$versions"
}

build_helm() {
  fresh helm "helm $HELM" && return
  program helm helm.sh/helm/v3/cmd/helm "helm.sh/helm/v3@$HELM"
  built helm "helm $HELM"
}

build_s3() {
  fresh s3 "versitygw $VERSITYGW" && return
  program versitygw github.com/versity/versitygw/cmd/versitygw "github.com/versity/versitygw@$VERSITYGW"
  built s3 "versitygw $VERSITYGW"
}

build_prom() {
  fresh prom "promtool $PROMETHEUS" && return
  # Without the clients of clouds, which promtool needs for discovery alone and which make most of the build.
  GOFLAGS="${GOFLAGS:+$GOFLAGS }-tags=remove_all_sd" program promtool github.com/prometheus/prometheus/cmd/promtool \
    "github.com/prometheus/prometheus@$PROMETHEUS"
  built prom "promtool $PROMETHEUS"
}

[ $# -gt 0 ] || set -- etcd
for target in "$@"; do
  case $target in
    etcd | suite | kube | helm | s3 | prom) "build_$target" ;;
    all) build_etcd; build_suite; build_kube; build_helm; build_s3; build_prom ;;
    *) echo "build.sh: unknown target $target: write etcd, suite, kube, helm, s3, prom or all" >&2; exit 2 ;;
  esac
done
ls "$bin"
