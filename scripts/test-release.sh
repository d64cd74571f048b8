#!/usr/bin/env bash
# Proves that scripts/release.sh is reproducible: two runs, in two folders, at
# two times, under another umask, time zone, language and home, must give the
# same bytes for everything. Arguments go to release.sh (such as --snapshot, or
# --target linux/amd64 to be quick).
#
# It says at its end what was compared. It does not prove that another version
# of Go, or of gzip and zip, gives the same.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT

# Copies, not worktrees: with --snapshot the changes shall come along.
mkdir "$tmp/one" "$tmp/a longer name"
{ git ls-files -z -co --exclude-standard | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done
  find .git -type f -print0; } >"$tmp/files"
tar --null -T "$tmp/files" -c | tar -x -C "$tmp/one"
mkdir -p "$tmp/one/.git/refs" "$tmp/one/.git/objects"
cp -r "$tmp/one/." "$tmp/a longer name"

mkdir "$tmp/home"
(umask 022; "$tmp/one/scripts/release.sh" "$@" "$tmp/out1")
# The caches are the same: what is fetched is pinned by checksums anyway.
modcache=$(go env GOMODCACHE) cache=$(go env GOCACHE)
chmod -R go-rwx "$tmp/a longer name"
(umask 077; find "$tmp/a longer name" -path '*/.git' -prune -o -type f -exec touch -d '2001-02-03 04:05:06' {} +
	cd / && HOME=$tmp/home GOMODCACHE=$modcache GOCACHE=$cache TZ=Pacific/Chatham LANG=de_DE.UTF-8 GOFLAGS=-buildvcs=false \
		"$tmp/a longer name/scripts/release.sh" "$@" "$tmp/out2" >/dev/null)

diff -r "$tmp/out1" "$tmp/out2"
(cd "$tmp/out2" && sha256sum --quiet -c SHA256SUMS)
printf 'test-release: %d files, the same bytes twice\n' "$(find "$tmp/out1" -type f | wc -l)"
