#!/usr/bin/env bash
# Tests the Debian package as an administrator would use it: install, configure,
# start, call as an ordinary user, upgrade, remove, purge. It does so in a Debian
# of its own under /tmp, whose systemd runs in namespaces. It does not change
# this machine's files, users or network, and removes everything at the end.
#
#	try-deb.sh [DEB]    # default: a package built from this tree
#
# It needs root, debootstrap and a Debian mirror ($MIRROR; default: the one that
# apt uses here), and prints at the end what it could not test.
# TRY_DEB_BASE=DIR keeps the minimal Debian there for the next run.
set -euo pipefail

name=responses-api-proxy
key=sk-made-up-for-try-deb-0123456789
caller=4711
root_dir=$(cd "$(dirname "$0")/.." && pwd)
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' | head -n 1)}

step() { printf '\n== %s\n' "$*"; }
die() { printf 'try-deb: %s\n' "$*" >&2; exit 1; }
# must prints an assertion, and ends the script if it fails.
must() { local what=$1; shift; "$@" >/dev/null 2>"$tmp/must" || { cat "$tmp/must" >&2; die "failed: $what"; }; printf '  %s\n' "$what"; }
must_not() { local what=$1; shift; ! "$@" >/dev/null 2>&1 || die "failed: $what"; printf '  %s\n' "$what"; }

# make_base installs a minimal Debian with systemd and curl.
make_base() { # directory
	[ ! -e "$1/sbin/init" ] || return 0
	debootstrap --variant=minbase --include=systemd,systemd-sysv,curl bookworm "$1" "$mirror" >"$tmp/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$tmp/debootstrap.log" >&2; die "debootstrap failed"; }
}

# boot starts systemd as the first process of new namespaces, with a network that
# has a loopback and nothing else, and sets pid1.
boot() {
	: >"$tmp/systemd.log"
	cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
	[ -n "$cgroup" ] || die "there is no cgroup2 for systemd to run in"
	cgroup=$cgroup/try-deb-$$
	mkdir "$cgroup"
	(
		echo $BASHPID >"$cgroup/cgroup.procs"
		exec unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child --propagation private \
			bash -c "$inside" try-deb "$disk" "$tmp/systemd.log"
	) </dev/null >>"$tmp/systemd.log" 2>&1 &
	launcher=$!
	until pid1=$(pgrep -P "$launcher" 2>/dev/null) && [ -S "/proc/$pid1/root/run/systemd/private" ]; do
		kill -0 "$launcher" 2>/dev/null || { cat "$tmp/systemd.log" >&2; die "systemd did not start"; }
		wait_a_moment
	done
	deadline=$((SECONDS + 120))
	until case $(in_debian systemctl is-system-running 2>/dev/null) in running | degraded) true ;; *) false ;; esac; do
		[ $SECONDS -lt $deadline ] || { cat "$tmp/systemd.log" >&2; die "systemd does not come up"; }
		wait_a_moment
	done
}

# inside is the script of the first process in the namespaces.
inside='set -e
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for d in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 dev/${d%:*} c 1 ${d#*:}; done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s /proc/self/fd dev/fd
touch dev/console
mount --bind "$2" dev/console
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared / # systemd leaves that to the creator of the namespaces
export container=try-deb
exec /sbin/init --log-target=console --log-level=notice --show-status=no'

wait_a_moment() { sleep 0.2; }

# in_debian runs a command in that Debian as root, as_caller as an ordinary user.
in_debian() { nsenter -t "$pid1" -m -p -n -i -u -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }
as_caller() { in_debian setpriv --reuid $caller --regid $caller --clear-groups "$@"; }

# files lists every file there with its type, mode and owner.
files() {
	in_debian find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /srv -o -path /tmp -o -path /var/tmp \
		-o -path /var/lib/dpkg -o -path /var/cache -o -path /var/log/dpkg.log -o -path /var/lib/systemd \) -prune \
		-o -printf '%p %y %m %u:%g\n' | sort
}

call() { as_caller curl -sS -m 20 -o /dev/null -w '%{http_code}' -d '{"input":"hello"}' "$@"; }
responds() { [ "$(call http://127.0.0.1:$port/v1/responses)" = 200 ]; }
active() { in_debian systemctl is-active --quiet $name.service; }
logs() { in_debian journalctl --sync || true; in_debian journalctl -o cat --no-pager -n 20 -u $name >&2 || true; tail -n 20 "$tmp/systemd.log" >&2; }
main_pid() { in_debian systemctl show -p MainPID --value $name.service; }

# clean_up ends all processes there and removes the files; systemd's processes
# end with the first of them.
clean_up() {
	[ -z "${pid1:-}" ] || kill -KILL "$pid1" 2>/dev/null || true
	[ -z "${launcher:-}" ] || wait "$launcher" 2>/dev/null || true
	if [ -n "${cgroup:-}" ] && [ -d "$cgroup" ]; then
		find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
	fi
	rm -rf --one-file-system "$tmp"
}

# newer makes the same package with a later version.
newer() { # deb, output
	dpkg-deb -R "$1" "$tmp/newer"
	sed -i 's/^Version: .*/&+2/' "$tmp/newer/DEBIAN/control"
	dpkg-deb --root-owner-group -b "$tmp/newer" "$2" >/dev/null
}

install_deb() { in_debian dpkg -i "$1" >"$tmp/dpkg.log" 2>&1 || { cat "$tmp/dpkg.log" >&2; die "dpkg -i $1 failed"; }; }

# configure follows the package's documentation.
configure() {
	in_debian sh -c "umask 377; echo $key > /etc/$name/key"
	in_debian sh -c "cat >> /etc/$name.conf" <<-END
		allow-user $caller
		upstream-url http://127.0.0.1:9000/v1/responses
	END
}

start_upstream() {
	(cd "$root_dir" && CGO_ENABLED=0 go build -o "$disk/srv/standin" scripts/standin.go)
	in_debian /srv/standin 127.0.0.1:9000 "$key" >/dev/null 2>&1 &
}

try_install() {
	step "install: a user, a folder for the key, and nothing that runs"
	install_deb /srv/1.deb
	must "the user $name is there" in_debian getent passwd $name
	must "it cannot log in" in_debian sh -c "getent passwd $name | grep -q nologin"
	must "the key's folder is root's alone" in_debian sh -c "test \"\$(stat -c '%a %U:%G' /etc/$name)\" = '700 root:root'"
	must_not "nothing was started" active
	must_not "nothing is enabled" in_debian systemctl is-enabled $name.service
	in_debian systemctl start $name.service >/dev/null 2>&1 || true
	must_not "without a key it does not run" active
	in_debian systemctl stop $name.socket $name.service 2>/dev/null || true
	must "it is found by the original's name" in_debian codex-responses-api-proxy --version
	must "the attack suite is beside it" in_debian sh -c "$name verify --help | grep -q '^Usage: $name verify'"
	must "the units are as systemd wants them" in_debian systemd-analyze --man=no verify /usr/lib/systemd/system/$name.service
}

try_serve() {
	step "a key, a caller, and a start"
	configure
	in_debian systemctl reset-failed $name.service 2>/dev/null || true
	in_debian systemctl enable --now $name.service >/dev/null 2>&1 || { logs; die "it does not start"; }
	wait_for "an ordinary user gets the upstream's response" responds
	must_not "... whose own key it is not" as_caller cat /etc/$name/key
	must "another user is refused" in_debian sh -c "setpriv --reuid 4712 --regid 4712 --clear-groups curl -s -m 20 -d '{}' http://127.0.0.1:$port/v1/responses | grep -q user_not_allowed"
	must "it runs as $name" in_debian sh -c "test \"\$(stat -c %U /proc/$(main_pid))\" = $name || grep -q '^Uid:.*'\$(id -u $name) /proc/$(main_pid)/status"
	must "its user cannot read the program" in_debian sh -c "test \"\$(stat -c '%a %U:%G' /usr/bin/$name)\" = '711 root:root'"
	in_debian journalctl -o cat --no-pager -u $name | grep ' protections ' | tee "$tmp/protections" | sed 's/^/  /'
	must "nobody could attach to it as it started" grep -q ' start-window=closed ' "$tmp/protections"
}

wait_for() {
	local until=$((SECONDS + 30))
	until "${@:2}" 2>/dev/null; do
		[ $SECONDS -lt $until ] || { logs; die "not so: $1"; }
		wait_a_moment
	done
	printf '  %s\n' "$1"
}

try_upgrade() {
	step "upgrade"
	local before
	before=$(main_pid)
	install_deb /srv/2.deb
	must "it runs" active
	must "... anew" test "$(main_pid)" != "$before"
	wait_for "it responds" responds
	must "the configuration is the administrator's still" in_debian grep -q "allow-user $caller" /etc/$name.conf
}

try_remove() {
	step "remove: the service is gone, key and configuration stay"
	in_debian dpkg -r $name >/dev/null 2>&1 || die "dpkg -r failed"
	must_not "it does not respond" responds
	must_not "no process of it is there" in_debian pgrep -x $name
	must "the key stays" in_debian test -s /etc/$name/key
	files >"$tmp/removed"
	# Configuration, key, enabled units and the user remain.
	diff <(cat "$tmp/before") "$tmp/removed" | sed -n 's/^> \([^ ]*\) .*/\1/p' >"$tmp/left" || true
	sed 's/^/  left: /' "$tmp/left"
	must_not "nothing else stays" grep -vE "^/etc/(logrotate\.d(/$name)?|$name\.conf)$|^/etc/$name(/key)?$|$accounts|^/etc/systemd/system/[^/]*wants(/$name\.(service|socket))?$|^/var/(lib|log)/$name" "$tmp/left"
}

try_purge() {
	step "purge: as before, but for the user's number"
	install_deb /srv/2.deb
	in_debian systemctl start $name.service
	wait_for "installed again it serves with the key that was left" responds
	in_debian dpkg -P $name >/dev/null 2>&1 || die "dpkg -P failed"
	must_not "it does not respond" responds
	files >"$tmp/purged"
	diff "$tmp/before" "$tmp/purged" | sed -n 's/^[<>] \([^ ]*\) .*/\1/p' | sort -u >"$tmp/left" || true
	sed 's/^/  changed: /' "$tmp/left"
	must_not "nothing else is left or gone" grep -vE "$accounts" "$tmp/left"
	must "the user stays: its number must not be given to another" in_debian getent passwd $name
}

# Files that change when a user is added.
accounts='^/etc/(passwd|group|shadow|gshadow)-?$|^/etc/\.pwd\.lock$|^/etc/(subuid|subgid)-?$'

main() {
	[ "$(id -u)" = 0 ] || die "it must be root, to make a Debian and namespaces"
	command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
	tmp=$(mktemp -d /tmp/try-deb.XXXXXX)
	trap clean_up EXIT
	chmod 755 "$tmp"
	port=8080 # the socket unit's
	disk=$tmp/disk

	step "a Debian"
	local base=${TRY_DEB_BASE:-$tmp/base} deb=${1:-}
	make_base "$base"
	cp -a "$base" "$disk"
	if [ -z "$deb" ]; then
		"$root_dir/scripts/release.sh" --snapshot --target "linux/$(dpkg --print-architecture)" "$tmp/release" >/dev/null
		deb=$(echo "$tmp"/release/*.deb)
	fi
	cp "$deb" "$disk/srv/1.deb"
	newer "$deb" "$disk/srv/2.deb"
	boot
	start_upstream
	files >"$tmp/before"
	printf '  %s, systemd %s\n' "$(in_debian cat /etc/debian_version)" "$(in_debian systemctl --version | awk 'NR == 1 { print $2 }')"

	try_install
	try_serve
	try_upgrade
	try_remove
	try_purge
	step "not tried here"
	cat <<-END
		  another kernel than this machine's, $(uname -r): scripts/try-kernels.sh --checks package tries three
		  the real upstream, and TLS to it: the stand-in speaks plain http on loopback
		  other releases than bookworm, other architectures, the rpm
		  two really different versions: the newer one differs in its number only
	END
	printf '\ntry-deb: everything above holds\n'
}

main "$@"
