#!/usr/bin/env bash
# Tests that scripts/release.sh is reproducible: two runs, at two times, from two
# directories, under another umask, time zone, language and home, must give the same
# bytes for everything. Then scripts/try-npm.sh installs the npm packages, and the
# file lists of the others, and the images' configuration, are checked (needs jq). Arguments go to release.sh (such as
# --snapshot, or --target linux/amd64 to be quick).
#
# It prints at its end what was compared. It does not prove that another version of
# Go, or of gzip and zip, gives the same.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
die() { printf 'test-release: %s\n' "$*" >&2; exit 1; }

mkdir "$tmp/home" "$tmp/a longer name"
# A new HOME has no git configuration, which has to list safe directories.
printf '[safe]\n\tdirectory = *\n' >"$tmp/home/.gitconfig"
root=$PWD modcache=$(go env GOMODCACHE) cache=$(go env GOCACHE)
(umask 022; scripts/release.sh "$@" "$tmp/out1")
# The caches are the same: what is fetched is pinned by checksums anyway.
(umask 077
	cd / && HOME=$tmp/home TMPDIR="$tmp/a longer name" GOMODCACHE=$modcache GOCACHE=$cache TZ=Pacific/Chatham \
		LANG=de_DE.UTF-8 GOFLAGS=-buildvcs=false "$root/scripts/release.sh" "$@" "$tmp/out2" >/dev/null)

diff -r "$tmp/out1" "$tmp/out2"
(cd "$tmp/out2" && sha256sum --quiet -c SHA256SUMS)

# list prints the names in a package, without the leading ./ that some have.
list() { # package
	case $1 in
	*.deb) dpkg-deb --fsys-tarfile "$1" | tar -t ;;
	*.apk) tar --warning=no-unknown-keyword -tzf "$1" ;;
	*.zst) zstd -dc "$1" | tar -t ;;
	esac | sed 's|^\./||'
}
for package in "$tmp"/out1/*.{deb,apk,pkg.tar.zst}; do
	[ -e "$package" ] || continue
	list "$package" >"$tmp/list"
	for path in usr/bin/responses-api-proxy usr/bin/responses-api-proxy-verify usr/bin/codex-responses-api-proxy \
		usr/share/man/man1/responses-api-proxy.1.gz usr/share/bash-completion/completions/responses-api-proxy \
		usr/share/doc/responses-api-proxy/examples/kubernetes/sidecar.yaml usr/share/doc/responses-api-proxy/docs/install.md; do
		grep -qx "$path" "$tmp/list" || die "${package##*/} lacks $path"
	done
done

# blob prints the file of an image that jq's path in JSON on standard input names.
blob() { # image, path
	tar -xOf "$1" "blobs/$(jq -er "$2.digest" | tr : /)"
}
for image in "$tmp"/out1/*.oci.tar; do
	[ -e "$image" ] || continue
	tar -xOf "$image" index.json | blob "$image" '.manifests[0]' >"$tmp/manifest"
	blob "$image" .config <"$tmp/manifest" | jq -e '.config | .User == "65532:65532" and .Entrypoint == ["/responses-api-proxy"] and .Cmd[0] == "--listen"' \
		>/dev/null || die "${image##*/} has another configuration"
	blob "$image" '.layers[0]' <"$tmp/manifest" | tar -tvz | awk '/^-/ { print $1, $2, $6 }' >"$tmp/list"
	diff - "$tmp/list" <<-END || die "${image##*/} has other files"
		-rw-r--r-- 0/0 ./LICENSE
		-rw-r--r-- 0/0 ./THIRD-PARTY-LICENSES
		-rw-r--r-- 0/0 ./etc/ssl/certs/ca-certificates.crt
		-rwx--x--x 0/0 ./responses-api-proxy
		-rwxr-xr-x 0/0 ./responses-api-proxy-verify
	END
done
scripts/try-npm.sh "$tmp/out1"
printf 'test-release: %d files, the same bytes twice\n' "$(find "$tmp/out1" -type f | wc -l)"
