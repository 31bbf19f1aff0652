# Sourced by the scripts of this folder: where things are, and the few functions that several of them need.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
ns=${CLUSTER_NETNS:-spendkeeper}
node_ip=10.99.0.1
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Debian packages, installed when they are missing; says exactly which when it cannot.
need_packages() { # package…
  local missing=() p
  for p in "$@"; do dpkg -s "$p" > /dev/null 2>&1 || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && return
  { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; } || die "these packages are missing and only root on Debian can install them: ${missing[*]}"
  say "installing ${missing[*]}"
  mkdir -p "$root/target"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } > "$root/target/apt.log" 2>&1 \
    || { tail -n 20 "$root/target/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

need_command() { # command remedy
  command -v "$1" > /dev/null || die "$1 is missing: $2"
}

# Waits for a condition, never for luck.
wait_for() { # seconds command…
  local until=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { say "not ready in time: $*"; return 1; }
    sleep 0.2
  done
}

# Starts a process of the cluster under $dir; its id goes to pid/NAME, what it prints to log/NAME.log.
start() { # name command…
  local name=$1; shift
  setsid "$@" > "$dir/log/$name.log" 2>&1 < /dev/null &
  echo $! > "$dir/pid/$name"
}

running() { # name
  [ -s "$dir/pid/$1" ] && kill -0 "$(cat "$dir/pid/$1")" 2> /dev/null
}

# Ends a process that `start` started, and waits until it is gone: its ports are free only then.
stop() { # name
  [ -s "$dir/pid/$1" ] || return 0
  local pid; pid=$(cat "$dir/pid/$1")
  kill "$pid" 2> /dev/null
  for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2> /dev/null
  rm -f "$dir/pid/$1"
}

# A certificate authority, and certificates that it signs: subject, then alternative names.
make_ca() {
  openssl genrsa -out sa.key 2048
  openssl rsa -in sa.key -pubout -out sa.pub
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 365
}
make_cert() { # file subject names
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 365 -extfile <(printf 'subjectAltName=%s' "$3")
}
make_kubeconfig() { # user server
  cat > "$dir/$1.kubeconfig" << E
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "$2", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
E
}
