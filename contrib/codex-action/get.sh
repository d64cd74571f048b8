#!/usr/bin/env bash
# Finds or downloads the program, in a step that does not have the key; action.yml
# describes the variables.
set -euo pipefail
# shellcheck source=fail.sh
. "$GITHUB_ACTION_PATH/fail.sh"

# download unpacks a release's archive, once its hash is the expected one.
download() {
	local url=$RELEASE system arch
	[[ $SHA256 =~ ^[0-9a-f]{64}$ ]] || fail "release needs sha256, 64 hexadecimal digits: SHA256SUMS of the release has it"
	if [[ $url != *://* ]]; then
		system=$(uname -s | tr '[:upper:]' '[:lower:]')
		arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
		url=https://github.com/responses-api-proxy/responses-api-proxy/releases/download/$RELEASE/responses-api-proxy_${RELEASE#v}_${system}_$arch.tar.gz
	fi
	curl -fsSL --retry 3 -o "$dir/archive" "$url" || fail "cannot download $url"
	local sum=(sha256sum)
	command -v sha256sum >/dev/null || sum=(shasum -a 256)
	printf '%s  %s\n' "$SHA256" "$dir/archive" | "${sum[@]}" -c >/dev/null 2>&1 || fail "$url has another SHA-256 than $SHA256: $("${sum[@]}" "$dir/archive")"
	tar -xzf "$dir/archive" -C "$dir" --strip-components=1
	rm "$dir/archive"
	program=$dir/responses-api-proxy
}

dir=$(mktemp -d "${RUNNER_TEMP:?}/responses-api-proxy.XXXXXX")
chmod 755 "$dir" # callers may be other users, and read server-info
case ${BINARY:+binary}${NPM:+npm}${RELEASE:+release} in
binary) program=$(command -v -- "$BINARY") || fail "$BINARY is not there, or not executable" ;;
npm)
	npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --no-save "$NPM" || fail "cannot install $NPM"
	# The package of this system has the program itself: neither Node nor a launcher stays between it and signals.
	program=$(echo "$dir"/node_modules/@responses-api-proxy/*/responses-api-proxy)
	;;
release) download ;;
*) fail "give one of the inputs binary, npm and release" ;;
esac
[ -x "$program" ] || fail "there is no program at $program"
printf 'program=%s\ndirectory=%s\n' "$program" "$dir" >>"${GITHUB_OUTPUT:?}"
