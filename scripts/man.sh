#!/usr/bin/env bash
# Writes the manual page to OUT. Its date is SOURCE_DATE_EPOCH's or the last
# commit's, so that the same commit always produces the same bytes.
#
# It needs git and Go; the pinned converter comes from the Go module proxy.
set -euo pipefail

converter=github.com/cpuguy83/go-md2man/v2@v2.0.7

[ $# = 1 ] || { printf 'Usage: man.sh OUT\n' >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
export TZ=UTC
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
printf -v date '%(%Y-%m-%d)T' "$epoch"
# The converter runs on this system, whatever the target of a release. It does
# not escape hyphens, at which groff may break lines, and which it may print as
# other characters than those of a command line.
page=$(sed "/^<!-- /d; s/@DATE@/$date/" "$root/docs/responses-api-proxy.1.md" |
	GOOS='' GOARCH='' go run "$converter" | sed '/^\./!s/\\\{0,1\}-/\\-/g')
printf '%s\n' "$page" >"$1"
