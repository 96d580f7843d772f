#!/bin/bash
# Two hosts on one machine, made of network, process and mount namespaces, each with its own sshd.
#   two_hosts.sh up DIR      make them: head 10.78.0.2, worker 10.78.0.3, ssh key DIR/key, launch from rdtLaunch
#   two_hosts.sh down DIR    end them, and nothing else
# Both see the folder DIR/shared as /mnt/raydistill; each has a home, /tmp/ray and /dev/shm of its own.
# Needs root and openssh-server, rsync, iproute2. VENV is the environment with Ray, seen as ~/venv.
set -eu
action=${1:?up or down} dir=$(realpath -m "${2:?a folder}")
hosts=(rdtHead rdtWorker)
down() {
  for h in "${hosts[@]}"; do
    if [ -f "$dir/$h/outer.pid" ]; then kill "$(cat "$dir/$h/outer.pid")" 2>/dev/null || true; fi
  done
  sleep 1
  for h in "${hosts[@]}"; do for p in $(ip netns pids "$h" 2>/dev/null); do kill -9 "$p" 2>/dev/null || true; done; done
  for n in "${hosts[@]}" rdtLaunch; do ip netns del "$n" 2>/dev/null || true; done
}
up() {
  mkdir -p "$dir/shared" /run/sshd
  [ -f "$dir/key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
  [ -f "$dir/hostkey" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/hostkey"
  ip netns add rdtLaunch; ip -n rdtLaunch link set lo up
  ip -n rdtLaunch link add br0 type bridge; ip -n rdtLaunch addr add 10.78.0.1/24 dev br0; ip -n rdtLaunch link set br0 up
  local i=2
  for h in "${hosts[@]}"; do
    ip netns add "$h"; ip -n "$h" link set lo up
    ip -n rdtLaunch link add "v$h" type veth peer name eth0 netns "$h"
    ip -n rdtLaunch link set "v$h" master br0 up
    ip -n "$h" addr add "10.78.0.$i/24" dev eth0; ip -n "$h" link set eth0 up; ip -n "$h" route add default via 10.78.0.1
    mkdir -p "$dir/$h"/{home,work}; cp "$dir/key.pub" "$dir/$h/authorized_keys"; chmod 600 "$dir/$h/authorized_keys"
    cat > "$dir/$h/sshd_config" <<C
Port 22
ListenAddress 10.78.0.$i
HostKey $dir/hostkey
PidFile none
AuthorizedKeysFile $dir/$h/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
C
    cat > "$dir/$h/init.sh" <<C
set -eu
mount -t overlay overlay -o lowerdir=\$HOME,upperdir=$dir/$h/home,workdir=$dir/$h/work \$HOME
mount --bind $dir/shared /mnt && mkdir -p /mnt/raydistill
mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; mount -t tmpfs -o size=2g tmpfs /dev/shm
rm -rf \$HOME/.ray \$HOME/venv \$HOME/raydistill; ln -s $VENV \$HOME/venv
hostname $h
touch $dir/$h/ready
exec /usr/sbin/sshd -D -f $dir/$h/sshd_config -E $dir/$h/sshd.log
C
    setsid ip netns exec "$h" unshare --mount --pid --fork --mount-proc --uts --ipc --kill-child \
      bash "$dir/$h/init.sh" > "$dir/$h/init.log" 2>&1 < /dev/null &
    echo $! > "$dir/$h/outer.pid"
    i=$((i+1))
  done
  for h in "${hosts[@]}"; do
    for _ in $(seq 50); do [ -f "$dir/$h/ready" ] && break; sleep 0.2; done
    [ -f "$dir/$h/ready" ] || { cat "$dir/$h/init.log" >&2; exit 1; }
  done
}
"$action"
