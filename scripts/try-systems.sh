#!/usr/bin/env bash
# Runs the program on other architectures of Linux: 386 as it is, the others in QEMU's user emulation on this kernel. It
# prints the line "protections" of each. The emulation lacks memfd_secret, Landlock and the look-up of a connection's
# user, and gives its own threads another state than the program's, so those cannot be tried here.
#
#	try-systems.sh [ARCHITECTURE...]    # needs qemu-user-static (Debian), Go and a processor that runs amd64 programs
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

emulator() { # architecture
	case $1 in
	386) ;;
	loong64) echo qemu-loongarch64-static ;;
	*) echo "qemu-$1-static" ;;
	esac
}

go test -c -tags systems -o "$tmp/systems.test" ./e2e/systems
for arch in "${@:-386 arm loong64 ppc64le riscv64 s390x}"; do
	for arch in $arch; do
		GOARCH=$arch go build -trimpath -ldflags=-s -o "$tmp/proxy-$arch" ./cmd/responses-api-proxy
		SYSTEMS_COMMAND="$(emulator "$arch") $tmp/proxy-$arch" SYSTEMS_GOOS=linux \
			SYSTEMS_PROTECTIONS='secret-memory=locked dumpable=no core=no seccomp=missing' \
			"$tmp/systems.test" -test.v >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
		printf '%s: ' "$arch"
		sed -n 's/^ *systems_test.go:[0-9]*: protections //p' "$tmp/log"
	done
done
