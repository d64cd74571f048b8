#!/usr/bin/env bash
# Runs the program for Windows under wine: it starts, serves, limits, refuses and stops (e2e/systems), Ctrl-C in a
# terminal, and the tests of the packages that touch the key. Wine is not Windows: it shows that the program makes calls
# that exist and does not misread their results, not what Windows protects.
#
#	try-wine.sh    # needs root for apt-get, if wine, script and ld for Windows are not there; Go
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0 WINEDEBUG=-all
tmp=$(mktemp -d)
export WINEPREFIX=$tmp/wine
clean_up() {
	wineserver -k 2>/dev/null || /usr/lib/wine/wineserver -k 2>/dev/null || true # of this WINEPREFIX only
	wait
	rm -rf "$tmp"
}
trap clean_up EXIT

step() { printf '\n== %s\n' "$*"; }
die() { printf 'try-wine: %s\n' "$*" >&2; exit 1; }

# install installs what is missing, from Debian.
install() {
	command -v wine >/dev/null && command -v x86_64-w64-mingw32-ld >/dev/null && command -v script >/dev/null && return
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wine wine64 binutils-mingw-w64-x86-64 bsdutils >/dev/null
}

# prefix makes a Windows of wine's. Go needs ProcessPrng, which wine has since 8.14 and Debian 12's 8.0 has under an older
# name: a library that leads from the one to the other closes the gap.
prefix() {
	wine wineboot -i >/dev/null 2>&1
	local system=$WINEPREFIX/drive_c/windows/system32
	[ ! -e "$system/bcryptprimitives.dll" ] || return 0
	printf 'LIBRARY bcryptprimitives\nEXPORTS\nProcessPrng = advapi32.SystemFunction036\n' >"$tmp/prng.def"
	x86_64-w64-mingw32-ld -shared --entry 0 -o "$system/bcryptprimitives.dll" "$tmp/prng.def"
}

# within waits until a command succeeds.
within() { # seconds, command...
	local deadline=$((SECONDS + $1))
	until "${@:2}"; do
		[ $SECONDS -lt $deadline ] || die "waited in vain for: ${*:2}; $(cat "$tmp/terminal")"
		sleep 0.1
	done
}

# ctrl_c types a key and later Ctrl-C into a terminal in which the program runs.
ctrl_c() {
	mkfifo "$tmp/keyboard"
	: >"$tmp/terminal"
	(script -qfec "wine $tmp/responses-api-proxy.exe --port 0" /dev/null <"$tmp/keyboard" >"$tmp/terminal" 2>&1; printf '\nexit code %d\n' $? >>"$tmp/terminal") &
	exec 3>"$tmp/keyboard"
	within 60 grep -q 'it is not shown' "$tmp/terminal"
	printf 'sk-made-up-for-try-wine\r' >&3
	within 60 grep -q 'listening on' "$tmp/terminal"
	printf '\003' >&3
	within 60 grep -q '^exit code' "$tmp/terminal"
	exec 3>&-
	grep -q '^exit code 0' "$tmp/terminal" && grep -q 'stopped' "$tmp/terminal" || die "Ctrl-C does not stop it in order: $(cat "$tmp/terminal")"
	! grep -q sk-made-up "$tmp/terminal" || die "the key was shown"
}

install
prefix
step "$(wine --version)"
GOOS=windows go build -trimpath -ldflags=-s -o "$tmp" ./cmd/responses-api-proxy ./cmd/responses-api-proxy-verify
wine "$tmp/responses-api-proxy.exe" --version
wine "$tmp/responses-api-proxy.exe" verify --help >"$tmp/help"
head -n 1 "$tmp/help"

step "start, stream, limits, key, refusals, --http-shutdown"
SYSTEMS_COMMAND="wine $tmp/responses-api-proxy.exe" SYSTEMS_GOOS=windows SYSTEMS_PROTECTIONS='secret-memory=locked dumpable=yes core=yes seccomp=missing' \
	go test -count=1 -tags systems -v ./e2e/systems

step "Ctrl-C in a terminal"
ctrl_c
echo "the key that is typed is not shown; Ctrl-C stops the program, with exit code 0"

# Left out: what asks for a text of Unix or an owner of a socket, and one that needs to know what the peer's kernel has
# acknowledged, which only Linux says.
step "the tests of packages that touch the key"
GOOS=windows go test -exec wine -count=1 ./internal/key/secret ./internal/key/tlsrecord
GOOS=windows go test -exec wine -count=1 -skip '^(TestRootsFrom|TestManyRecords|TestClosedClientSendsNothingInClear)$' ./internal/key/upstream

step "not tried: a service, access lists, Credential Guard, a debugger of the same user, Windows on arm64, unix sockets"
