#!/usr/bin/env bash
# Starts the proxy in the background; action.yml describes the variables. It needs
# neither sudo nor Node, and writes nothing into Codex's configuration.
set -euo pipefail
# shellcheck source=fail.sh
. "$GITHUB_ACTION_PATH/fail.sh"

# give adds a flag whose input is not empty.
give() { [ -z "${2:-}" ] || flags+=("$1" "$2"); } # flag, value

info=$DIRECTORY/server-info.json
flags=(--server-info "$info" --log-file "$DIRECTORY/proxy.log" --audit "$DIRECTORY/audit.jsonl")
secret=${PROXY_API_KEY:-}
if [ -n "${IDENTITY_PROVIDER_ID:-}${SERVICE_ACCOUNT_ID:-}" ]; then
	[ -z "$secret" ] || fail "give openai-api-key, or identity-provider-id and service-account-id, not both"
	secret=${ACTIONS_ID_TOKEN_REQUEST_TOKEN:-}
	[ -n "$secret" ] || fail "GitHub issues no identity to this job: give it the permission id-token: write"
	flags+=(--github-oidc --oidc-audience "$AUDIENCE" --identity-provider-id "$IDENTITY_PROVIDER_ID"
		--service-account-id "$SERVICE_ACCOUNT_ID" --github-oidc-request-url "${ACTIONS_ID_TOKEN_REQUEST_URL:-}")
fi
unset PROXY_API_KEY ACTIONS_ID_TOKEN_REQUEST_TOKEN
[ -n "$secret" ] || fail "openai-api-key is empty: is the secret set? A workflow that a fork triggers gets none"

# shellcheck disable=SC2153 # the variable of action.yml
read -rd '' -a callers <<<"${CALLERS//,/ }" || true
[ ${#callers[@]} -gt 0 ] || fail "callers is empty: name users, self, or any"
for caller in "${callers[@]}"; do
	[ "$caller" = any ] || flags+=(--allow-user "$caller")
done
give --max-requests "${MAX_REQUESTS:-}"
give --max-tokens-per-user "${MAX_TOKENS:-}"
give --expire-after "${EXPIRE_AFTER:-}"
give --upstream-url "${UPSTREAM_URL:-}"
[ -z "${CODEX_HOME_INPUT:-}" ] || flags+=(--http-shutdown) # as openai/codex-action starts its own
read -rd '' -a more <<<"${FLAGS:-}" || true
flags+=(${more[@]+"${more[@]}"})

# A session of its own, and no descriptor of the step: a runner waits for the processes that hold either. printf is the
# shell's own, so that the key is in no arguments.
detach=(env)
if command -v setsid >/dev/null; then detach=(setsid); fi
printf '%s\n' "$secret" | "${detach[@]}" "$PROGRAM" "${flags[@]}" >"$DIRECTORY/start.log" 2>&1 &
proxy=$!
unset secret
for _ in {1..600}; do
	[ ! -s "$info" ] || break
	kill -0 "$proxy" 2>/dev/null || break
	sleep 0.1
done
if [ ! -s "$info" ]; then
	kill "$proxy" 2>/dev/null || true
	fail "the proxy did not start: $(cat "$DIRECTORY/start.log" "$DIRECTORY/proxy.log" 2>/dev/null)"
fi

if [ -n "${CODEX_HOME_INPUT:-}" ]; then
	# Where openai/codex-action looks for a proxy that runs. The link leads nowhere once the proxy has ended.
	link=$CODEX_HOME_INPUT/${GITHUB_RUN_ID:?}.json
	mkdir -p "$CODEX_HOME_INPUT"
	ln -sf "$info" "$link"
	printf '%s\n' "$link" >"$DIRECTORY/link"
fi
port=$(sed 's/.*"port":\([0-9]*\).*/\1/' "$info")
echo "responses-api-proxy listens on 127.0.0.1:$port; log and audit log: $DIRECTORY"
{
	echo "port=$port"
	echo "base-url=http://127.0.0.1:$port/v1"
	echo "server-info=$info"
	echo "codex-home=${CODEX_HOME_INPUT:-}"
} >>"${GITHUB_OUTPUT:?}"
