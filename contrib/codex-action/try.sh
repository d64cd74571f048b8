#!/usr/bin/env bash
# Plays openai/codex-action's part, as its action.yml says: looks for a proxy,
# starts one by name if there is none, waits, reads the port, calls. Once with
# start.sh before it, once with our binary under the original's name.
#
#	try.sh BINARY    # needs Go, curl and node
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:?Usage: try.sh BINARY}")
tmp=$(mktemp -d)
key=sk-made-up-for-codex-action-0123456789
trap 'kill "$upstream" 2>/dev/null || true; wait; rm -rf "$tmp"' EXIT
(cd "$here/../.." && CGO_ENABLED=0 go build -o "$tmp/standin" scripts/standin.go)
"$tmp/standin" 127.0.0.1:0 "$key" >"$tmp/url" &
upstream=$!
until [ -s "$tmp/url" ]; do sleep 0.1; done
die() { printf 'try: %s\n' "$*" >&2; exit 1; }

# the_action starts a proxy if it finds none, and ends as its user would.
the_action() { # server-info, what it must find
	local found=false port
	if [ -s "$1" ]; then found=true; fi
	[ $found = "$2" ] || die "the action finds a proxy: $found, not $2"
	if ! $found; then
		(exec env -u PROXY_API_KEY "${PROXY:-codex-responses-api-proxy}" --http-shutdown --server-info "$1" --upstream-url "$(cat "$tmp/url")" <<<"$key") 2>"$tmp/log" &
	fi
	for _ in {1..10}; do
		[ ! -s "$1" ] || break
		sleep 1
	done
	port=$(node -e 'const {port} = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8")); if (!Number.isInteger(port)) throw port; console.log(port)' "$1")
	[ "$(curl -s -o /dev/null -w '%{http_code}' -d '{"input":"hello"}' "http://127.0.0.1:$port/v1/responses")" = 200 ] || die "no answer"
	curl --fail --silent --show-error "http://127.0.0.1:$port/shutdown"
}

mkdir "$tmp/temp" "$tmp/bin" "$tmp/home"
GITHUB_RUN_ID=1 RUNNER_TEMP=$tmp/temp GITHUB_OUTPUT=$tmp/output CODEX_HOME_INPUT=$tmp/home/.codex BINARY=$binary \
	PROXY_API_KEY=$key UPSTREAM_URL=$(cat "$tmp/url") FLAGS="--max-requests 5" "$here/start.sh" >"$tmp/said"
! grep -rq "$key" "$tmp/temp" "$tmp/output" "$tmp/said" "$tmp/home" || die "the key was written down"
grep -qx "codex-home=$tmp/home/.codex" "$tmp/output" || die "no output"
the_action "$tmp/home/.codex/1.json" true
echo "  with start.sh before it, the action uses the proxy that runs"

ln -s "$binary" "$tmp/bin/codex-responses-api-proxy"
PATH=$tmp/bin:$PATH the_action "$tmp/home/2.json" false
echo "  under the original's name, the action starts it"

if GITHUB_RUN_ID=3 RUNNER_TEMP=$tmp/temp GITHUB_OUTPUT=$tmp/output CODEX_HOME_INPUT=$tmp/home BINARY=$binary \
	PROXY_API_KEY='' "$here/start.sh" >"$tmp/said" 2>&1; then die "it starts without a key"; fi
[ ! -s "$tmp/home/3.json" ] || die "server-info without a key"
echo "  without a key nothing starts, and the step fails"
printf '\ntry: everything above holds\n'
