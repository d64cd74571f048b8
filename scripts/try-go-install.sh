#!/usr/bin/env bash
# Tries `go install .../cmd/...@VERSION` and `@latest` from a module proxy of its own
# (a directory that holds HEAD as VERSION), with an empty module cache: both programs
# must be built and print the version. Other modules come from this machine's cache.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-v0.1.0}
module=$(go list -m)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
die() { printf 'try-go-install: %s\n' "$*" >&2; exit 1; }

go mod download
dir=$tmp/proxy/$module/@v
mkdir -p "$dir" "$tmp/bin" "$tmp/elsewhere"
# A module's zip leaves out the modules below it.
git archive --format=zip --prefix="$module@$version/" -o "$dir/$version.zip" HEAD -- . ':!bench'
git show HEAD:go.mod >"$dir/$version.mod"
printf '{"Version": "%s"}\n' "$version" >"$dir/$version.info"
printf '%s\n' "$version" >"$dir/list"

modcache=$(go env GOMODCACHE)
# The checksum database does not have VERSION; what is in the cache was checked by go.sum.
export GOMODCACHE=$tmp/modcache GOBIN=$tmp/bin GOFLAGS=-modcacherw GOSUMDB=off GOPROXY="file://$tmp/proxy,file://$modcache/cache/download"
cd "$tmp/elsewhere"
for query in "$version" latest; do
	go install "$module/cmd/...@$query" 2>"$tmp/log" || { cat "$tmp/log" >&2; die "go install failed"; }
	for command in "responses-api-proxy version" "responses-api-proxy --version"; do
		# shellcheck disable=SC2086
		said=$("$tmp/bin/"$command)
		[ "$said" = "responses-api-proxy $version" ] || die "$command prints $said"
	done
	"$tmp/bin/responses-api-proxy" verify --help | grep -q '^Usage: responses-api-proxy verify' || die "the attack suite is not found"
	printf 'try-go-install: %s@%s installs %s: %s\n' "$module/cmd/..." "$query" "$(cd "$tmp/bin" && echo ./*)" "$said"
	rm "$tmp"/bin/*
done
