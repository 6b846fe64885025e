#!/usr/bin/env bash
# Builds the programs that the end-to-end suites compare with, from pinned Go modules, into DIR/bin.
#   build.sh DIR        etcd, etcdctl, etcdutl, benchmark
#   build.sh DIR suite  etcd's own tests/common as bin/common.test; DIR/etcd-fixtures names the directory of their certificates
# Cold, on two cores, 1-2 minutes each; Go's caches make later calls quick. A stamp of the versions says when nothing is to do.
set -euo pipefail
dir=$(mkdir -p "${1:?usage: build.sh DIR [suite]}" && cd "$1" && pwd)
what=${2:-programs}
bin=$dir/bin
mkdir -p "$bin"

ETCD=v3.7.3
BENCHMARK=v3.6.8 # the benchmark tool's module has no installable 3.7 release
stamp="etcd $ETCD benchmark $BENCHMARK"
stamp_file=$dir/stamp
if [ "$what" = suite ]; then
  stamp="tests $ETCD"
  stamp_file=$dir/stamp-suite
fi
[ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ] && exit 0
command -v go > /dev/null || { echo "build.sh: the Go toolchain is needed to build etcd's own programs" >&2; exit 1; }

# A scratch module that imports the programs: `go install` refuses modules with replace lines.
scratch() { # name import-path...
  mkdir -p "$dir/$1" && cd "$dir/$1"
  shift
  printf 'module tools\n\ngo 1.26\n' > go.mod
  { printf '//go:build tools\n\npackage tools\n\nimport (\n'; printf '\t_ "%s"\n' "$@"; printf ')\n'; } > tools.go
}

if [ "$what" = suite ]; then
  scratch suite go.etcd.io/etcd/tests/v3/framework/e2e go.etcd.io/etcd/tests/v3/common
  # The second package holds nothing but tests, so its dependencies are asked for by name.
  go get "go.etcd.io/etcd/tests/v3@$ETCD" && go get -t go.etcd.io/etcd/tests/v3/common
  go test -c -tags e2e -o "$bin/common.test" go.etcd.io/etcd/tests/v3/common
  echo "$(go list -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3)/fixtures" > "$dir/etcd-fixtures"
  echo "$stamp" > "$stamp_file"
  exit 0
fi

scratch etcd go.etcd.io/etcd/server/v3 go.etcd.io/etcd/etcdctl/v3 go.etcd.io/etcd/etcdutl/v3
go get "go.etcd.io/etcd/server/v3@$ETCD" "go.etcd.io/etcd/etcdctl/v3@$ETCD" "go.etcd.io/etcd/etcdutl/v3@$ETCD"
go mod tidy
for program in server:etcd etcdctl:etcdctl etcdutl:etcdutl; do
  CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/${program#*:}" "go.etcd.io/etcd/${program%:*}/v3"
done

scratch benchmark go.etcd.io/etcd/v3/tools/benchmark
go get "go.etcd.io/etcd/v3@$BENCHMARK"
go mod tidy
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/benchmark" go.etcd.io/etcd/v3/tools/benchmark

# The interaction scripts that crates/raft replays.
go mod download go.etcd.io/raft/v3@v3.7.0
echo "$stamp" > "$stamp_file"
ls "$bin"
