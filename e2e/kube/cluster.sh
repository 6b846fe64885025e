#!/usr/bin/env bash
# A real Kubernetes of several nodes on one Linux machine, in network namespaces without an uplink: no packet leaves.
#   cluster.sh up [NODES]        start (3 nodes when absent); a directory that holds an older one is refused: down first
#   cluster.sh net               only the network of the control plane, for members of etcd that are to be there before `up`
#   cluster.sh down              stop everything, unmount, and delete all but the images
#   cluster.sh ctl ARGS...       kubectl
#   cluster.sh in N CMD...       run CMD in the network of node N (0: of the control plane)
#   cluster.sh load TAR...       import image archives into every node
#   cluster.sh cut N | join N    take node N off the network, and put it back; its processes go on
#   cluster.sh kill N | start N  a power cut of node N, and power again
# Environment: STATE (directory; /tmp/quorate-kube), BIN (the programs: e2e/tools/build.sh DIR etcd kube makes DIR/bin).
# ETCD_SERVERS (URLs) and ETCD_TLS (directory with ca.pem, cert.pem, key.pem): an etcd that runs already, in place of one started here.
# APISERVERS (1): so many API servers, on ports 6443, 6444, ..; all but the first are for whoever asks them.
# APISERVER_FLAGS: further flags of theirs, by words. With `up 0` there are no nodes, and neither images nor containers are needed.
# Needs root and Debian's containerd runc containernetworking-plugins buildah nftables busybox-static iproute2 gcc openssl.
#
# What it takes on a kernel with cgroup v1 inside a container: failCgroupV1=false; restrict_oom_score_adj (there is no
# CAP_SYS_RESOURCE); nsenter, since `ip netns exec` hides /sys/fs/cgroup; a bridge, since there are no dummy devices; and a Node
# object before its kubelet starts, else CSINode set-up gives up early and the node stays NotReady until a restart.
set -euo pipefail
from=$PWD
here=$(cd "$(dirname "$0")" && pwd)
STATE=$(mkdir -p "${STATE:-/tmp/quorate-kube}" && cd "${STATE:-/tmp/quorate-kube}" && pwd)
: "${BIN:?BIN is the directory of kube-apiserver and the others, as e2e/tools/build.sh DIR etcd kube makes it}"
PREFIX=${PREFIX:-qe} NET=${NET:-10.91.0} PODS=${PODS:-10.245} SERVICES=${SERVICES:-10.97}
API=$NET.1 DNS=$SERVICES.0.10
BIN=$(cd "$BIN" && pwd)
cd "$STATE"

netns() { local name=$1; shift; nsenter --net="/var/run/netns/$PREFIX-$name" "$@"; }
cp_() { netns cp "$@"; }
kubectl() { cp_ "$BIN/kubectl" --kubeconfig="$STATE/admin.kubeconfig" "$@"; }
start() { local name=$1; shift; setsid nohup "$@" >> "log/$name.log" 2>&1 < /dev/null & echo $! > "pid/$name"; }
stop() { # name: gently, then not
  local file=pid/$1 pid
  [ -f "$file" ] || return 0
  pid=$(cat "$file")
  kill "$pid" 2> /dev/null || true
  for _ in $(seq 25); do kill -0 "$pid" 2> /dev/null || break; sleep 0.2; done
  kill -9 "$pid" 2> /dev/null || true
  rm -f "$file"
}
nodes() { for dir in "$STATE"/n[0-9]*; do [ -d "$dir" ] && basename "$dir" | tr -d n; done; }

# --- certificates -----------------------------------------------------------------------------------------------------

certificate() { # name subject extensions
  [ -f "pki/$1.crt" ] && return
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "pki/$1.key" -out "pki/$1.csr" -subj "$2" 2> /dev/null
  openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 30 -out "pki/$1.crt" \
    -extfile <(echo "$3") 2> /dev/null
}
kubeconfig() { # file certificate
  cat > "$1" <<Y
apiVersion: v1
kind: Config
current-context: k
contexts: [{name: k, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://$API:6443", certificate-authority-data: $(base64 -w0 pki/ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "pki/$2.crt"), client-key-data: $(base64 -w0 "pki/$2.key")}}]
Y
}
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pki/ca.key -out pki/ca.crt -days 30 \
    -subj /CN=kube-ca 2> /dev/null
  openssl ecparam -name prime256v1 -genkey -noout -out pki/sa.key
  openssl ec -in pki/sa.key -pubout -out pki/sa.pub 2> /dev/null
  certificate apiserver /CN=kube-apiserver "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$SERVICES.0.1,IP:$API"
  certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  kubeconfig admin.kubeconfig admin
  local name
  for name in controller-manager scheduler proxy; do
    certificate $name /CN=system:kube-$name extendedKeyUsage=clientAuth
    kubeconfig $name.kubeconfig $name
  done
}

# --- images of the harness itself ---------------------------------------------------------------------------------------

image() { # name tag dockerfile-text: from the context in $d
  printf '%s\n' "$3" > "$d/Dockerfile"
  buildah bud --isolation chroot -q -t "localhost/$1:$2" -f "$d/Dockerfile" "$d" > /dev/null
  rm -f "img/$1.tar"
  buildah push -q "localhost/$1:$2" "docker-archive:img/$1.tar:localhost/$1:$2"
}
images() {
  mkdir -p img
  [ -f img/done ] && return
  local d
  d=$(mktemp -d)
  cat > "$d/pause.c" <<'C'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { (void)s; exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
C
  gcc -static -Os -o "$d/pause" "$d/pause.c"
  cp "$(command -v busybox)" "$BIN"/{coredns,local-path-provisioner,etcd,etcdctl,etcdutl} "$d/"
  image pause 1 $'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]'
  image busybox 1 $'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox","--install","-s","/bin"]\nCMD ["/bin/sh"]'
  image coredns 1 $'FROM scratch\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]'
  image local-path 1 $'FROM scratch\nCOPY local-path-provisioner /local-path-provisioner\nENTRYPOINT ["/local-path-provisioner"]'
  # Real etcd at the paths of its own image, for `engine: etcd`.
  image etcd 3.7.3 $'FROM scratch\nCOPY etcd etcdctl etcdutl /usr/local/bin/\nENV PATH=/usr/local/bin\nENTRYPOINT ["/usr/local/bin/etcd"]'
  if [ -x "$BIN/versitygw" ]; then
    cp "$BIN/versitygw" "$d/"
    image versitygw 1 $'FROM scratch\nCOPY versitygw /versitygw\nENTRYPOINT ["/versitygw"]'
  fi
  rm -rf "$d"
  touch img/done
}

# --- nodes ----------------------------------------------------------------------------------------------------------------

make_node() { # N: everything of a node but its processes
  local n=$1 dir=$STATE/n$1 name=n$1 group
  mkdir -p "$dir"/{cni,containerd,state,kubelet,ipam,logs}
  ip netns add "$PREFIX-$name"
  ip link add "ve$name" netns "$PREFIX-cp" type veth peer name eth0 netns "$PREFIX-$name"
  cp_ ip link set "ve$name" master br0 up
  netns "$name" ip link set lo up
  netns "$name" ip addr add "$NET.1$n/24" dev eth0
  netns "$name" ip link set eth0 up
  netns "$name" ip route add default via "$API"
  netns "$name" sysctl -qw net.ipv4.ip_forward=1
  cp_ ip route add "$PODS.$n.0/24" via "$NET.1$n"
  if [ ! -f /sys/fs/cgroup/cgroup.controllers ]; then
    for group in /sys/fs/cgroup/*/; do
      group=$(basename "$group")
      [ "$group" = unified ] || mkdir -p "/sys/fs/cgroup/$group/$PREFIX-$name"
    done
    for group in cpus mems; do
      cat "/sys/fs/cgroup/cpuset/cpuset.$group" > "/sys/fs/cgroup/cpuset/$PREFIX-$name/cpuset.$group" 2> /dev/null || true
    done
  else
    mkdir -p "/sys/fs/cgroup/$PREFIX-$name"
  fi
  certificate "kubelet-$name" "/O=system:nodes/CN=system:node:$name" "subjectAltName=DNS:$name,IP:$NET.1$n"
  kubeconfig "$dir/kubelet.kubeconfig" "kubelet-$name"
  cat > "$dir/cni/10.conflist" <<J
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{"subnet": "$PODS.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
  cat > "$dir/containerd.toml" <<T
version = 2
root = "$dir/containerd"
state = "$dir/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
T
  cat > "$dir/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$PREFIX-$name
failCgroupV1: false
failSwapOn: false
clusterDNS: ["$DNS"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$dir/containerd.sock
tlsCertFile: $STATE/pki/kubelet-$name.crt
tlsPrivateKeyFile: $STATE/pki/kubelet-$name.key
# A share of a disk that others fill too would empty the nodes in the middle of a case.
evictionHard: {memory.available: "100Mi", nodefs.available: "200Mi", imagefs.available: "200Mi"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
podLogsDir: $dir/logs
resolvConf: ""
Y
  cat > "$dir/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
clusterCIDR: $PODS.0.0/16
hostnameOverride: $name
conntrack: {maxPerCore: 0, min: 0}
Y
}
start_node() {
  local n=$1 dir=$STATE/n$1 name=n$1 tar
  # Also for a node that starts again, and was deleted meanwhile.
  kubectl apply -f - > /dev/null <<Y
apiVersion: v1
kind: Node
metadata: {name: $name, labels: {kubernetes.io/hostname: $name, topology.kubernetes.io/zone: zone-$n}}
Y
  start "containerd-$name" nsenter --net="/var/run/netns/$PREFIX-$name" containerd -c "$dir/containerd.toml"
  for _ in $(seq 80); do ctr -a "$dir/containerd.sock" version > /dev/null 2>&1 && break; sleep 0.25; done
  for tar in img/*.tar; do ctr -a "$dir/containerd.sock" -n k8s.io images import "$tar" > /dev/null; done
  start "kubelet-$name" nsenter --net="/var/run/netns/$PREFIX-$name" "$BIN/kubelet" --config="$dir/kubelet.yaml" \
    --kubeconfig="$dir/kubelet.kubeconfig" --hostname-override="$name" --node-ip="$NET.1$n" --root-dir="$dir/kubelet"
  start "proxy-$name" nsenter --net="/var/run/netns/$PREFIX-$name" "$BIN/kube-proxy" --config="$dir/proxy.yaml"
}
kill_node() { # every process of the node dies at once
  local dir=$STATE/n$1 name=n$1 task file
  for file in pid/kubelet-$name pid/proxy-$name; do
    [ -f "$file" ] && kill -9 "$(cat "$file")" 2> /dev/null || true
    rm -f "$file"
  done
  for task in $(ctr -a "$dir/containerd.sock" -n k8s.io task ls -q 2> /dev/null); do
    ctr -a "$dir/containerd.sock" -n k8s.io task kill -s KILL "$task" > /dev/null 2>&1 || true
  done
  sleep 0.5
  stop "containerd-$name"
}

# --- the whole --------------------------------------------------------------------------------------------------------------

net() {
  [ ! -e "/var/run/netns/$PREFIX-cp" ] || return 0
  ip netns add "$PREFIX-cp"
  cp_ ip link set lo up
  cp_ ip link add br0 type bridge
  cp_ ip addr add "$API/24" dev br0
  cp_ ip link set br0 up
  cp_ sysctl -qw net.ipv4.ip_forward=1
}
start_apiserver() { # N, flags about etcd
  local name=apiserver
  [ "$1" = 1 ] || name=apiserver-$1
  # shellcheck disable=SC2086 # flags by words
  start "$name" nsenter --net="/var/run/netns/$PREFIX-cp" "$BIN/kube-apiserver" $2 --secure-port=$((6442 + $1)) \
    --service-cluster-ip-range="$SERVICES.0.0/16" --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key --client-ca-file=pki/ca.crt \
    --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --advertise-address="$API" --bind-address=0.0.0.0 \
    --audit-policy-file=audit.yaml --audit-log-path="log/audit${name#apiserver}.log" \
    --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key --kubelet-preferred-address-types=InternalIP \
    ${APISERVER_FLAGS:-}
}
up() {
  local count=${1:-3} n program programs="ip openssl nsenter" etcd
  [ "$count" = 0 ] || programs="$programs containerd ctr runc buildah nft busybox gcc"
  for program in $programs; do
    command -v $program > /dev/null || { echo "cluster.sh: $program is missing; the head of this file names the packages" >&2; exit 1; }
  done
  [ "$(id -u)" = 0 ] || { echo "cluster.sh: needs root: network namespaces, mounts, containers" >&2; exit 1; }
  [ ! -d n1 ] || { echo "cluster.sh: $STATE holds a cluster: run down first" >&2; exit 1; }
  mkdir -p log pid pki
  [ "$count" = 0 ] || images
  [ -f pki/ca.crt ] || authority
  net
  # What the operators under test ask for, and whether they may: the suite compares that with their roles.
  cat > audit.yaml <<Y
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:quorate-system", "system:serviceaccounts:e2e-operator"]}
- {level: None}
Y
  rm -f log/audit*.log
  if [ -n "${ETCD_SERVERS:-}" ]; then
    etcd="--etcd-servers=$ETCD_SERVERS"
    [ -z "${ETCD_TLS:-}" ] || etcd="$etcd --etcd-cafile=$ETCD_TLS/ca.pem --etcd-certfile=$ETCD_TLS/cert.pem --etcd-keyfile=$ETCD_TLS/key.pem"
  else
    start etcd nsenter --net="/var/run/netns/$PREFIX-cp" "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync
    etcd=--etcd-servers=http://127.0.0.1:2379
  fi
  for n in $(seq "${APISERVERS:-1}"); do start_apiserver "$n" "$etcd"; done
  for n in $(seq "${APISERVERS:-1}"); do
    for _ in $(seq 240); do kubectl --server="https://$API:$((6442 + n))" get --raw /readyz > /dev/null 2>&1 && break; sleep 0.5; done
    kubectl --server="https://$API:$((6442 + n))" get --raw /readyz > /dev/null
  done
  start controller-manager nsenter --net="/var/run/netns/$PREFIX-cp" "$BIN/kube-controller-manager" \
    --kubeconfig=controller-manager.kubeconfig --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt \
    --cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --cluster-cidr="$PODS.0.0/16" \
    --use-service-account-credentials --leader-elect=false --node-monitor-grace-period="${NODE_GRACE:-16s}"
  start scheduler nsenter --net="/var/run/netns/$PREFIX-cp" "$BIN/kube-scheduler" --kubeconfig=scheduler.kubeconfig --leader-elect=false
  kubectl create clusterrolebinding proxy --clusterrole=system:node-proxier --user=system:kube-proxy > /dev/null
  [ "$count" != 0 ] || return 0
  for n in $(seq "$count"); do make_node "$n"; start_node "$n"; done
  sed -e "s#@VOLUMES@#$STATE/volumes#; s#@DNS@#$DNS#" "$here/services.yaml" | kubectl apply -f - > /dev/null
  kubectl wait --for=condition=Ready node --all --timeout=120s > /dev/null
  kubectl -n kube-system rollout status deploy/coredns --timeout=120s > /dev/null
  kubectl get nodes
}
down() {
  local n name mounted pid
  for n in $(nodes); do kill_node "$n" 2> /dev/null || true; done
  for name in scheduler controller-manager $(cd pid 2> /dev/null && ls -d apiserver* 2> /dev/null) etcd; do stop "$name"; done
  for mounted in $(awk -v state="$STATE/" 'index($2, state) == 1 {print $2}' /proc/mounts | tac); do
    umount "$mounted" 2> /dev/null || umount -l "$mounted" || true
  done
  for pid in $(pgrep -f "containerd-shim-runc-v2 .*-address $STATE/" || true); do kill -9 "$pid" 2> /dev/null || true; done
  # Sandboxes' namespaces are in the one folder that all clusters share: ours are those with addresses of our pods.
  for name in $(ip netns list | awk '/^cni-/{print $1}'); do
    ip -n "$name" -4 addr 2> /dev/null | grep -q "inet $PODS\." && ip netns del "$name" || true
  done
  for name in $(ip netns list | awk -v p="^$PREFIX-" '$1 ~ p {print $1}'); do ip netns del "$name"; done
  rm -rf "$STATE"/{etcd,pid,pki,volumes,admin.kubeconfig} "$STATE"/n[0-9]*
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  up) up "$@" ;;
  net) net ;;
  down) down ;;
  ctl) kubectl "$@" ;;
  in) n=${1:?a node}; shift; [ "$n" = 0 ] && n=cp || n=n$n; cd "$from"; netns "$n" "$@" ;;
  load)
    for tar in "$@"; do
      tar=$(cd "$from" && readlink -f "$tar")
      for n in $(nodes); do ctr -a "$STATE/n$n/containerd.sock" -n k8s.io images import "$tar" > /dev/null; done
      # A node that starts again after a power cut has it on its disk; one that is made later imports it from here.
      cp "$tar" img/
    done
    ;;
  cut) netns "n${1:?a node}" ip link set eth0 down ;;
  join) netns "n${1:?a node}" ip link set eth0 up; netns "n$1" ip route replace default via "$API" ;;
  kill) kill_node "${1:?a node}" ;;
  start) start_node "${1:?a node}" ;;
  *) sed -n '2,12p' "$here/$(basename "$0")"; exit 2 ;;
esac
