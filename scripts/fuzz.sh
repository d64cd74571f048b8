#!/usr/bin/env bash
# Runs every fuzz target for one minute, or for the time in the argument
# ("scripts/fuzz.sh 10s"), two at a time on one core each. Prints a line for
# each target, and fails if a target fails or if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false each=${1:-60s}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export logs

targets() { # package target
	grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do
		sed -n "s|^func \(Fuzz[A-Za-z0-9_]*\)(.*|$(dirname "$file") \1|p" "$file"
	done | sort
}
one() {
	if go test -run '^$' -fuzz "^$2\$" -fuzztime "$each" -fuzzminimizetime 5x -parallel 1 "$1" >"$logs/$2" 2>&1; then
		printf 'clean   %s %s %s\n' "$1" "$2" "$(grep -o 'execs: [0-9]*' "$logs/$2" | tail -n 1)"
	else
		printf 'FAILED  %s %s\n' "$1" "$2"
		cat "$logs/$2"
		return 1
	fi
}
export -f one
[ -n "$(targets)" ] || { echo "fuzz: no target found" >&2; exit 1; }
targets | xargs -P 2 -L 1 bash -c 'one "$@"' _
