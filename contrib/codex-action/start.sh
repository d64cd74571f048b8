#!/usr/bin/env bash
# Starts the proxy in the background, with its server-info file where
# openai/codex-action looks before it starts one of its own:
# CODEX_HOME/GITHUB_RUN_ID.json. action.yml has the variables.
set -euo pipefail

home=${CODEX_HOME_INPUT:-${CODEX_HOME:-$HOME/.codex}}
info=$home/${GITHUB_RUN_ID:?}.json
log=${RUNNER_TEMP:?}/responses-api-proxy.log
mkdir -p "$home"
[ ! -s "$info" ] || { echo "$info is there already: a proxy runs in this job, or an earlier attempt left it; remove it" >&2; exit 1; }

read -ra flags <<<"${FLAGS:-}"
[ -z "${UPSTREAM_URL:-}" ] || flags+=(--upstream-url "$UPSTREAM_URL")
key=$PROXY_API_KEY
unset PROXY_API_KEY
# printf is the shell's own: the key is in no arguments. Output goes to a file,
# for a runner waits for whoever holds its pipes (codex-action #108).
printf '%s\n' "$key" | "$BINARY" --http-shutdown --server-info "$info" ${flags[@]+"${flags[@]}"} >"$log" 2>&1 &
proxy=$!
unset key

for _ in {1..100}; do
	[ ! -s "$info" ] || break
	kill -0 "$proxy" 2>/dev/null || break
	sleep 0.1
done
if [ ! -s "$info" ]; then
	cat "$log" >&2
	exit 1
fi
cat "$log"
chmod 444 "$info"
# As the action does it, so that an agent cannot lead others to a port of its own.
if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	sudo chown root "$info"
fi
echo "codex-home=$home" >>"${GITHUB_OUTPUT:?}"
