#!/usr/bin/env bash
# Tries the units of this folder under a real systemd, and shows what they do:
#
#   sudo env PATH="$PATH" contrib/systemd/try.sh
#
# systemd runs as process 1 of namespaces of its own (processes, mounts, network,
# host name, IPC, cgroups), on an overlay of this machine's files: nothing that it
# or the service writes reaches the machine, nor can it end a process here. All
# that is shared is the kernel. The upstream is a stand-in, and the key made up.
#
# It needs root, Linux with overlayfs and cgroup2, systemd 252 or newer, and Go;
# BINARY=FILE is tried in place of a binary that is built here. It takes about a
# minute, ends after six at the latest, and leaves nothing running.
# Exit codes: 0 if all is as it should be, 1 if not, 2 if it cannot run here.
set -euo pipefail

readonly port=8080 upstream=127.0.0.1:9000 sock=/run/responses-api-proxy/proxy.sock
readonly service=responses-api-proxy.service
readonly most=1.5 # the exposure that systemd-analyze may find

say() { printf '\n== %s\n' "$*"; }
die() { printf 'try.sh: %s\n' "$*" >&2; exit 1; }
cannot() { printf 'try.sh: cannot run here: %s\n' "$*" >&2; exit 2; }

# inside is process 1 of the new namespaces: it lays out a root folder in $1, and
# becomes systemd.
inside() {
	local tmp=$1 root=$1/layers/root
	mount -t tmpfs tmpfs "$tmp/layers"
	mkdir "$tmp/layers/"{upper,work,root}
	mount -t overlay overlay -o "lowerdir=/,upperdir=$tmp/layers/upper,workdir=$tmp/layers/work" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount -o remount,bind,ro "$root/proc/sys"
	devices "$root/dev"
	for dir in run tmp usr/lib/systemd/system usr/lib/systemd/system-generators etc/systemd; do
		mount -t tmpfs -o mode=0755 tmpfs "$root/$dir"
	done
	chmod 1777 "$root/tmp"
	files "$tmp" "$root"
	cd "$root"
	mkdir -p tmp/old
	pivot_root . tmp/old
	umount -l tmp/old
	mount --make-rshared / # as systemd does it where it is not in a container
	exec env -i container=try PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
}

# devices makes a /dev that has nothing of the machine's.
devices() {
	mount -t tmpfs -o mode=0755 tmpfs "$1"
	mknod -m 666 "$1/null" c 1 3
	mknod -m 666 "$1/zero" c 1 5
	mknod -m 666 "$1/full" c 1 7
	mknod -m 666 "$1/random" c 1 8
	mknod -m 666 "$1/urandom" c 1 9
	mknod -m 666 "$1/tty" c 5 0
	mkdir "$1/pts" "$1/shm"
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/pts"
	mount -t tmpfs tmpfs "$1/shm"
	ln -s pts/ptmx "$1/ptmx"
	ln -s /proc/self/fd "$1/fd"
}

# files installs what a package would, and of the machine's own units only those
# that touch nothing.
files() {
	local tmp=$1 root=$2 unit
	for unit in {basic,sysinit,sockets,paths,timers,slices,local-fs,local-fs-pre,swap,multi-user,network,nss-user-lookup,shutdown,umount,final}.target \
		systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
		cp "/lib/systemd/system/$unit" "$root/usr/lib/systemd/system/"
	done
	mkdir "$root/usr/lib/systemd/system/sysinit.target.wants"
	ln -s ../systemd-journald.{service,socket} ../systemd-journald-dev-log.socket "$root/usr/lib/systemd/system/sysinit.target.wants/"
	cp "$tmp"/contrib/systemd/*.{service,socket} "$root/usr/lib/systemd/system/"
	mkdir -p "$root"/etc/logrotate.d "$root"/usr/lib/{sysusers.d,tmpfiles.d}
	for dir in sysusers.d tmpfiles.d; do
		cp "$tmp/contrib/$dir"/responses-api-proxy* "$root/usr/lib/$dir/"
	done
	install -m 644 "$tmp/contrib/responses-api-proxy.conf" "$root/etc/"
	install -m 711 "$tmp/responses-api-proxy" "$root/usr/bin/responses-api-proxy"
	install -m 755 "$tmp/standin" "$root/usr/bin/standin"
	echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
	# What only this trial needs.
	printf '[Service]\nExecStart=/usr/bin/standin %s %s\n' "$upstream" "$(<"$tmp/key")" >"$root/usr/lib/systemd/system/standin.service"
	mkdir "$root/usr/lib/systemd/system/$service.d"
	printf '[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n' >"$root/usr/lib/systemd/system/$service.d/trial.conf"
}

if [ "${1:-}" = --inside ]; then
	inside "$2"
fi
if [ -z "${TRY_BOUNDED:-}" ]; then
	TRY_BOUNDED=1 exec timeout --foreground --kill-after=60 300 "$0" "$@"
fi

[ "$(id -u)" = 0 ] || cannot "only root can make these namespaces"
[ -x /lib/systemd/systemd ] || cannot "systemd is not installed"
cgroups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) || cannot "there is no cgroup2"

cd "$(dirname "$0")/../.."
tmp=$(mktemp -d /tmp/responses-api-proxy-systemd-XXXXXX)
cgroup=$cgroups/${tmp##*/}
manager='' # unshare, outside; its child is systemd

clear_up() {
	trap - EXIT INT TERM
	if [ -n "$manager" ]; then
		# Process 1, and with it all that is inside; unshare ends after it. If that
		# does not get so far, it takes its child along.
		kill -KILL $(pgrep -P "$manager" || echo "$manager") 2>/dev/null || true
		wait "$manager" 2>/dev/null || true
	fi
	for ((i = 0; i < 100; i++)); do # the kernel takes a moment to end them
		[ -d "$cgroup" ] || break
		find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
	done
	rm -rf "$tmp"
}
trap clear_up EXIT
trap 'exit 1' INT TERM

say "build"
export CGO_ENABLED=0
if [ -n "${BINARY:-}" ]; then
	cp "$BINARY" "$tmp/responses-api-proxy"
else
	go build -trimpath -buildvcs=false -o "$tmp/responses-api-proxy" ./cmd/responses-api-proxy
fi
go build -buildvcs=false -o "$tmp/standin" scripts/standin.go
cp -r contrib "$tmp/contrib"
mkdir "$tmp/layers"
echo "sk-try-$(tr -dc a-zA-Z0-9 </dev/urandom | head -c 48)" >"$tmp/key" || true

say "systemd $(systemctl --version | sed -n '1s/systemd //p') in namespaces of its own"
mkdir "$cgroup"
(
	echo "$BASHPID" >"$cgroup/cgroup.procs"
	exec unshare --cgroup --mount --pid --net --uts --ipc --fork --kill-child -- "$0" --inside "$tmp"
) </dev/null >"$tmp/log" 2>&1 &
manager=$!

# within SECONDS COMMAND...: until it succeeds.
within() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}
booted() {
	init=$(pgrep -P "$manager") && [ "$(cat "/proc/$init/comm")" = systemd ] &&
		in_ systemctl is-active --quiet multi-user.target 2>/dev/null
}
# in_ COMMAND...: inside, as root.
in_() { nsenter --target "$init" --mount --pid --net --uts --ipc --cgroup --root --wd -- "$@"; }
# as USER GROUPS COMMAND...: inside, as an ordinary user.
as() {
	local user=$1 groups=$2
	shift 2
	in_ setpriv --reuid="$user" --regid=nogroup $groups --inh-caps=-all --no-new-privs -- "$@"
}
# post [CURL-OPTION...]: the status of a request.
readonly body='{"model":"gpt-5","input":"hi"}'
post=(curl --silent --show-error --max-time 30 --output /dev/null --write-out '%{http_code}\n' --json "$body")
show() { in_ systemctl show --property="$1" --value "${2:-$service}"; }
# is WHAT GOT WANT
is() {
	[ "$2" = "$3" ] || {
		in_ systemctl --no-pager --full status "$service" || true
		in_ journalctl --no-pager --quiet -n 40 || true
		die "$1: got \"$2\", not \"$3\""
	}
	printf '   ok: %s: %s\n' "$1" "$2"
}

within 30 booted || { cat "$tmp/log"; die "systemd did not start"; }

say "install, as a package and an operator do"
in_ systemd-sysusers responses-api-proxy.conf
in_ systemd-tmpfiles --create responses-api-proxy.conf
is "key folder" "$(in_ stat -c '%U %a' /etc/responses-api-proxy)" "root 700"
in_ install -m 400 /dev/stdin /etc/responses-api-proxy/key <"$tmp/key"
in_ sh -c 'cat >>/etc/responses-api-proxy.conf' <<END
allow-user nobody
upstream-url http://$upstream/v1/responses
${AUDIT-audit /var/log/responses-api-proxy/audit.jsonl}
max-tokens-per-user 1000000
budget-file /var/lib/responses-api-proxy/budget
END
in_ systemctl start standin.service
in_ systemd-analyze verify --man=no $service responses-api-proxy.socket responses-api-proxy-unix.socket
in_ systemctl start responses-api-proxy.socket responses-api-proxy-unix.socket
is "the service waits" "$(show ActiveState)" inactive

say "the first request of an ordinary user starts it, with --protection strict"
is "by TCP" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200
is "state" "$(show ActiveState) ($(show SubState))" "active (running)"
is "nobody could attach to it as it started" "$(in_ journalctl -q -o cat -u "$service" | grep -c 'start-window=closed')" 1
is "another user" "$(as daemon --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 403
members=--groups=$(in_ getent group responses-api-proxy | cut -d: -f3)
unix=("${post[@]}" --unix-socket "$sock" http://localhost:$port/v1/responses)
is "by the unix socket, in the group" "$(as nobody "$members" "${unix[@]}")" 200
is "by the unix socket, not in the group" "$(as nobody --clear-groups "${unix[@]}" 2>/dev/null)" 000
in_ systemctl --no-pager --full status "$service" | sed 's/^/   /'
main=$(show MainPID)
is "it has become the proxy" "$(in_ cat "/proc/$main/comm")" "responses-api-p"
is "the key in its environment and arguments" "$(in_ grep -c -a -F -f /etc/responses-api-proxy/key "/proc/$main/environ" "/proc/$main/cmdline" | cut -d: -f2 | paste -sd+)" "0+0"

say "systemd-analyze security"
in_ systemd-analyze security --no-pager "$service" | grep -v '^✓\|^  NAME' | sed 's/^/   /'
exposure=$(in_ systemd-analyze security --no-pager "$service" | sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
awk -v is="$exposure" -v most=$most 'BEGIN { exit !(is > 0 && is < most) }' || die "exposure $exposure is not below $most"
echo "   ok: exposure $exposure"

say "watchdog"
pinged() { [ "$(show WatchdogTimestampMonotonic)" != "$first" ]; }
for _ in 1 2; do
	first=$(show WatchdogTimestampMonotonic)
	within 20 pinged || die "no ping within 20 s of a watchdog of 4 s"
done
is "still the same process after two pings" "$(show MainPID)" "$main"
in_ kill -STOP "$main"
restarted() { [ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ]; }
within 40 restarted || is "restarts of a stopped process" "$(show NRestarts)" 1
is "after a hang and a restart" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200
main=$(show MainPID)

say "reload"
if [ -n "${AUDIT-x}" ]; then
	in_ mv /var/log/responses-api-proxy/audit.jsonl /var/log/responses-api-proxy/audit.jsonl.1
fi
in_ systemctl reload "$service"
is "state" "$(show ActiveState)" active
reloaded() { [ "$(in_ journalctl -q -o cat -u "$service" | grep -c 'API key reloaded')" = "$1" ]; }
within 10 reloaded 1 || die "the key was not read again"
is "after a reload" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200
is "the same process" "$(show MainPID)" "$main"
if [ -n "${AUDIT-x}" ]; then
	audited() { in_ test -s /var/log/responses-api-proxy/audit.jsonl; }
	within 10 audited || die "the audit file was not opened again"
	is "owner of the new audit file" "$(in_ stat -c '%U %a' /var/log/responses-api-proxy/audit.jsonl)" "responses-api-proxy 600"
fi

say "another key"
in_ sh -c 'cp -p /etc/responses-api-proxy/key /root/key && echo sk-revoked-0123456789abcdefgh >/etc/responses-api-proxy/key'
in_ systemctl reload "$service"
within 10 reloaded 2 || die "another key was not read"
is "a key that the upstream refuses" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 401
in_ sh -c 'cp -p /root/key /etc/responses-api-proxy/key'
in_ systemctl reload "$service"
within 10 reloaded 3 || die "the first key was not read again"
is "the first key" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200
is "the same process" "$(show MainPID)" "$main"

say "stop"
in_ systemctl stop "$service" 2>&1 | sed 's/^/   /'
is "the service" "$(show ActiveState) $(show Result)" "inactive success"
is "the TCP socket" "$(show SubState responses-api-proxy.socket)" listening
is "the unix socket" "$(show SubState responses-api-proxy-unix.socket)" listening
is "its path" "$(in_ stat -c '%F %a %G' $sock)" "socket 660 responses-api-proxy"
is "the key's copy is gone" "$(in_ ls -d /run/responses-api-proxy-key /run/credentials/* 2>/dev/null)" ""
is "the next request, after a stop" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200

say "the encrypted key"
in_ sh -c 'systemd-creds encrypt --quiet --with-key=host --name=key - /etc/responses-api-proxy/key.cred && rm /etc/responses-api-proxy/key' <"$tmp/key"
in_ sh -c "cat >/usr/lib/systemd/system/$service.d/encrypted-key.conf" <contrib/systemd/encrypted-key.conf
in_ systemctl daemon-reload
in_ systemctl restart "$service"
is "a request with it" "$(as nobody --clear-groups "${post[@]}" http://127.0.0.1:$port/v1/responses)" 200

say "a mistake in the options"
in_ sh -c 'echo nonsense >>/etc/responses-api-proxy.conf'
in_ systemctl restart "$service" 2>/dev/null && die "it starts with a wrong option"
is "it is not tried again" "$(show ActiveState) $(show ExecMainStatus)" "failed 2"

say "all as it should be; exposure $exposure"
