# shellcheck shell=bash disable=SC2034
# Sourced by the scripts of this folder: where things are, and what several of them do.
# Each takes the folder of its cluster as its first argument and calls it $dir.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
ns=${CLUSTER_NETNS:-spendkeeper}
node_ip=10.99.0.1
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

cluster_dir() { # argument → absolute path; target/cluster when there is none
  realpath -m "${1:-$root/target/cluster}"
}

# A folder for a cluster of its own with the programs and images that the demo's has.
share_programs() {
  local folder
  mkdir -p "$dir"
  for folder in bin images; do ln -sfn "../cluster/$folder" "$dir/$folder"; done
}

need_command() { # command remedy
  command -v "$1" > /dev/null || die "$1 is missing: $2"
}

llvm_tools() { # the folder of the compiler's own tools, which are installed where they are missing
  local found
  found=$(find "$(rustc --print sysroot)" -name llvm-profdata | head -1)
  if [ -z "$found" ]; then
    say "installing the compiler's own tools"
    rustup component add llvm-tools > /dev/null 2>&1 || die "llvm-tools are missing: rustup component add llvm-tools"
    found=$(find "$(rustc --print sysroot)" -name llvm-profdata | head -1)
  fi
  dirname "$found"
}

# What a cluster needs of the machine: a command or a file, and the Debian package that has it.
cluster_needs=(containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables
  conntrack:conntrack ip:iproute2 nsenter:util-linux openssl:openssl python3:python3)

# Installs the packages whose command or file is missing, or says exactly which it cannot.
need_packages() { # command-or-file:package…
  local missing=() need
  for need in "$@"; do command -v "${need%%:*}" > /dev/null || [ -e "${need%%:*}" ] || missing+=("${need##*:}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: ${missing[*]}"
  command -v apt-get > /dev/null || die "these packages are missing and there is no apt-get to install them: ${missing[*]}"
  say "installing ${missing[*]}"
  mkdir -p "$root/target"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    < /dev/null > "$root/target/apt.log" 2>&1 || { tail -n 20 "$root/target/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

# Two scripts that work on the same folder wait for each other; `start` does not pass the lock on to what it starts.
lock() {
  mkdir -p "$dir"
  exec 9> "$dir/.lock"
  flock -n 9 || { say "waiting for another script that works on $dir"; flock 9; }
}

# Waits for a condition, never for luck.
wait_for() { # seconds command…
  local until=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { say "not so in time: $*"; return 1; }
    sleep 0.2
  done
}

# nsenter, not `ip netns exec`: the latter remounts /sys, and the kubelet then finds no cgroups.
in_netns() { nsenter --net="/run/netns/$ns" "$@"; }

# Starts a process in $dir; its id goes to pid/NAME, what it prints to log/NAME.log.
start() { # name command…
  local name=$1; shift
  setsid "$@" > "$dir/log/$name.log" 2>&1 < /dev/null 9>&- &
  echo $! > "$dir/pid/$name"
}

# A recorded id counts only while its process works in $dir: after a reboot the same number may be somebody else's.
running() { # name
  local pid; pid=$(cat "$dir/pid/$1" 2> /dev/null) && [ "$(readlink "/proc/$pid/cwd")" = "$dir" ]
}

# Ends a process that `start` started and waits until it is gone: its ports are free only then.
stop() { # name [signal]
  local pid
  if running "$1"; then
    pid=$(cat "$dir/pid/$1")
    kill -s "${2:-TERM}" "$pid" 2> /dev/null
    for _ in $(seq 100); do running "$1" || break; sleep 0.1; done
    running "$1" && kill -9 "$pid" 2> /dev/null
    while running "$1"; do sleep 0.1; done
  fi
  rm -f "$dir/pid/$1"
}

# A certificate authority in the current folder, the key of service-account tokens, and certificates that the former signs.
make_ca() {
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out sa.key
  openssl pkey -in sa.key -pubout -out sa.pub
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 365
}
make_cert() { # file subject names
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 365 \
    -extfile <(printf 'subjectAltName=%s' "$3")
}
make_kubeconfig() { # user server
  cat > "$dir/$1.kubeconfig" << E
apiVersion: v1
kind: Config
clusters: [{name: spendkeeper, cluster: {server: "$2", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key}}]
contexts: [{name: spendkeeper, context: {cluster: spendkeeper, user: $1}}]
current-context: spendkeeper
E
}

# The two processes that are the API; what differs between a cluster and an API alone comes in as flags.
start_etcd() { # client-port peer-port wrapper…
  local client=http://127.0.0.1:$1 peer=http://127.0.0.1:$2; shift 2
  start etcd "$@" "$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" --unsafe-no-fsync
}
apiserver_flags=(--tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt
  --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key
  --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16)

# Where a cgroup named after the cluster lies: once under cgroup v2, once for each controller under v1.
cgroup_folders() {
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo "/sys/fs/cgroup/$ns"
  else find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d -printf "%p/$ns\n"; fi
}
