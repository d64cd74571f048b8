#!/usr/bin/env bash
# Writes the manual page to OUT. Its date is that of SOURCE_DATE_EPOCH, or of the
# last commit, so that the same commit gives the same bytes.
#
# It needs git and Go; the converter comes pinned through the Go module proxy.
set -euo pipefail

converter=github.com/cpuguy83/go-md2man/v2@v2.0.7

[ $# = 1 ] || { printf 'Usage: man.sh OUT\n' >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
export TZ=UTC
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
printf -v date '%(%Y-%m-%d)T' "$epoch"
# The converter runs here, whatever system a release is being built for. It
# leaves hyphens bare, which groff may break lines at and show as other signs
# than those of a command line.
page=$(sed "/^<!-- /d; s/@DATE@/$date/" "$root/docs/responses-api-proxy.1.md" |
	GOOS='' GOARCH='' go run "$converter" | sed '/^\./!s/\\\{0,1\}-/\\-/g')
printf '%s\n' "$page" >"$1"
