#!/usr/bin/env bash
# Runs the program under a mixed load for an hour, or for the time in the first
# argument: a normal build, and one with the race detector beside it, each with
# a fake TLS upstream of its own (e2e/longrun).
#
#	scripts/long-run.sh [DURATION [CSV]]
#
# Prints a verdict, and writes the samples to CSV if that is given. It needs
# root, Linux 6.7, Go, a C compiler and curl, takes about a tenth of one core, and
# sends nothing beyond loopback. All files are in one directory under /tmp, which
# is removed after a success.
# Exit codes: 0 for success, 1 for a failure, 2 if it cannot run on this machine.
set -euo pipefail

cannot() { printf 'long-run.sh: cannot run here: %s\n' "$*" >&2; exit 2; }
[ "$(id -u)" = 0 ] || cannot "only root can become other users and read a process's memory"
for tool in go "$(go env CC)" curl; do
	command -v "$tool" >/dev/null || cannot "$tool is not installed"
done
csv=$(realpath -m "${2:-/dev/null}")
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false
tmp=$(mktemp -d /tmp/longrun-XXXXXX)
chmod 755 "$tmp"
CGO_ENABLED=0 go build -trimpath -o "$tmp/normal" ./cmd/responses-api-proxy
CGO_ENABLED=1 go build -race -o "$tmp/race" ./cmd/responses-api-proxy
CGO_ENABLED=0 go build -o "$tmp/longrun" ./e2e/longrun
"$tmp/longrun" -dir "$tmp" -duration "${1:-1h}" -csv "$csv"
rm -rf "$tmp"
