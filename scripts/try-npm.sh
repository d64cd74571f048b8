#!/usr/bin/env bash
# Tries the npm packages that scripts/release.sh has put into OUTDIR, as a user
# would: each form of npm install that docs/install.md names, into an empty prefix;
# then the program runs with a made-up key on standard input, answers a request and
# is stopped. A registry on loopback stands in for npm's: nothing is fetched from it,
# and nothing is published.
#
# It needs node, npm, curl and Go, and prints the installed size and the start time.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(cd "${1:?Usage: try-npm.sh OUTDIR}" && pwd)
tmp=$(mktemp -d)
key=sk-made-up-for-try-npm-0123456789
trap clean_up EXIT

die() { printf 'try-npm: %s\n' "$*" >&2; cat "$tmp"/*.log >&2 2>/dev/null || true; exit 1; }
clean_up() {
	local pid
	for pid in ${registry:-} ${upstream:-} ${proxy:-}; do kill "$pid" 2>/dev/null || true; done
	rm -rf "$tmp"
}
# wait_for waits until a file has contents.
wait_for() { # what, file
	local until=$((SECONDS + 60))
	until [ -s "$2" ]; do [ $SECONDS -lt $until ] || die "timed out waiting for $1"; sleep 0.05; done
}

# The registry serves each package with the metadata of its package.json.
cat >"$tmp/registry.js" <<'END'
const fs = require("fs"), { execFileSync } = require("child_process"), { createHash } = require("crypto");
const dir = process.argv[2], packages = {};
let port;
for (const file of fs.readdirSync(dir).filter((f) => f.endsWith(".tgz"))) {
  const json = JSON.parse(execFileSync("tar", ["-xzOf", `${dir}/${file}`, "package/package.json"]));
  packages[json.name] = { json, file, integrity: "sha512-" + createHash("sha512").update(fs.readFileSync(`${dir}/${file}`)).digest("base64") };
}
const server = require("http").createServer((request, response) => {
  const name = decodeURIComponent(request.url.slice(1)), p = packages[name];
  if (name.startsWith("-/file/")) return fs.createReadStream(`${dir}/${name.slice(7)}`).pipe(response);
  if (!p) return response.writeHead(404).end("{}");
  const tarball = `http://127.0.0.1:${port}/-/file/${encodeURIComponent(p.file)}`;
  const version = { ...p.json, dist: { tarball, integrity: p.integrity } };
  response.end(JSON.stringify({ name, "dist-tags": { latest: p.json.version }, versions: { [p.json.version]: version } }));
});
server.listen(0, "127.0.0.1", () => { port = server.address().port; console.log(port); });
END
node "$tmp/registry.js" "$out" >"$tmp/registry" 2>"$tmp/registry.log" &
registry=$!
CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -o "$tmp/standin" scripts/standin.go
"$tmp/standin" 127.0.0.1:0 "$key" >"$tmp/upstream" &
upstream=$!
wait_for "the registry" "$tmp/registry"
wait_for "the upstream" "$tmp/upstream"
npm_config_registry=http://127.0.0.1:$(cat "$tmp/registry")
export npm_config_registry npm_config_cache=$tmp/cache npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false

# try installs into an empty prefix, and runs what is there.
try() { # bin, arguments of npm install
	local bin=$1 prefix=$tmp/prefix code=0 began
	shift
	rm -rf "$prefix"
	npm install -g --prefix "$prefix" "$@" >"$tmp/npm.log" 2>&1 || die "npm install $* failed"
	"$prefix/bin/$bin" --version >"$tmp/version.log" || die "$bin --version failed"
	"$prefix/bin/$bin" --no-such-flag 2>/dev/null || code=$?
	[ $code = 2 ] || die "the exit code of a wrong flag is $code, not 2"
	"$prefix/bin/$bin" verify --help | grep -q '^Usage: responses-api-proxy verify' || die "the attack suite is not found"
	rm -f "$tmp/info"
	began=$(date +%s%N)
	printf '%s\n' "$key" | "$prefix/bin/$bin" --server-info "$tmp/info" --upstream-url "$(cat "$tmp/upstream")" 2>"$tmp/proxy.log" &
	proxy=$!
	wait_for "$bin" "$tmp/info"
	began=$(($(date +%s%N) - began))
	curl -sSf -m 20 -o /dev/null -d '{"input":"hello"}' "http://127.0.0.1:$(sed 's/.*"port":\([0-9]*\).*/\1/' "$tmp/info")/v1/responses" || die "no response"
	kill "$proxy"
	code=0
	wait "$proxy" || code=$?
	proxy=
	[ $code = 0 ] || die "the exit code after SIGTERM is $code, not 0"
	[ ! -s "$tmp/info" ] || die "the program itself was not stopped"
	printf '  npm install -g %s: %s, %s KiB, listens after %s ms\n' "${*//$out\//./}" "$(cat "$tmp/version.log")" \
		"$(du -sk "$prefix" | cut -f1)" $((began / 1000000))
}

cli=$(echo "$out"/responses-api-proxy-cli-*.tgz)
platform=$(echo "$out/responses-api-proxy-$(node -p 'process.platform + "-" + process.arch')"-*.tgz)
version=$(tar -xzOf "$cli" package/package.json | sed -n 's/.*"version": "\(.*\)".*/\1/p')
printf 'node %s, npm %s\n' "$(node --version)" "$(npm --version)"
try responses-api-proxy --offline "$cli" "$platform"
try codex-responses-api-proxy --offline "@openai/codex-responses-api-proxy@file:$cli" "$platform"
try responses-api-proxy @responses-api-proxy/cli
try codex-responses-api-proxy "@openai/codex-responses-api-proxy@npm:@responses-api-proxy/cli@$version"
try codex-responses-api-proxy "@openai/codex-responses-api-proxy@file:$cli"
printf 'try-npm: everything above holds\n'
