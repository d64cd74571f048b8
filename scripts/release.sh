#!/usr/bin/env bash
# Makes everything that a release has, in OUTDIR (default: dist):
#
#   static binaries, of the proxy and of its attack suite, in archives, deb and
#   rpm packages, an SBOM (CycloneDX) of each for each system, and SHA256SUMS over
#   them all.
#
# The same commit and the same Go give the same bytes, wherever and whenever it
# runs: scripts/test-release.sh holds it to that. The version comes from git, by
# way of what `go build` writes into the binary; so that what is published can
# be found again, a tree with changes is refused unless --snapshot is given.
#
# It needs git, Go, zip, GNU tar and gzip; the other tools come pinned through
# the Go module proxy.
set -euo pipefail

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
name=responses-api-proxy
programs="$name $name-verify"
targets="linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64"

die() { printf 'release: %s\n' "$*" >&2; exit 1; }
usage() { printf 'Usage: release.sh [--snapshot] [--target OS/ARCH]... [OUTDIR]\n'; }

# settle_environment removes what could make two machines differ.
settle_environment() {
	unset CDPATH GZIP ZIPOPT TAR_OPTIONS GOEXPERIMENT GODEBUG GOOS GOARCH
	export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOWORK=off GOFLAGS=
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
	export SOURCE_DATE_EPOCH
	umask 022
}

# build compiles for GOOS and GOARCH. -buildvcs gives it its version.
build() { # program, output
	go build -trimpath -buildvcs=true -ldflags=-s -o "$2" "./cmd/$1"
}

# version_of prints the module version that the toolchain wrote into a binary.
version_of() { go version -m "$1" | awk '$1 == "mod" { print $3 }'; }

# package_version turns v1.2.3-rc.1 into 1.2.3~rc.1: what comes before a version
# must sort before it, and a dash means something else to dpkg and rpm.
package_version() { printf '%s\n' "${1#v}" | sed 's/-/~/; s/-/./g'; }

# modules prints the modules that a binary is made of, and their versions.
modules() { go version -m "$1" | awk '$1 == "dep" { print $2, $3 }' | sort; } # binary

# third_party prints the licences that a binary must bring along. What the attack
# suite is made of, the proxy is made of too; release checks it.
third_party() { # binary
	printf 'This program contains the work of others:\n'
	# BSD-3 and such ask for their text wherever the binary goes.
	modules "$1" | while read -r module version; do
		printf '\n== %s %s\n\n' "$module" "$version"
		cat "$(go list -m -f '{{.Dir}}' "$module")/LICENSE"
	done
	printf '\n== The Go standard library and runtime, %s\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
}

# completions writes what the program prints for each shell.
completions() { # binary that runs here
	mkdir "$tmp/completions"
	"$1" completion bash >"$tmp/completions/$name.bash"
	"$1" completion zsh >"$tmp/completions/_$name"
	"$1" completion fish >"$tmp/completions/$name.fish"
}

# settle_files gives every file below a folder the commit's time, and rights that
# do not depend on whose checkout it came from. The programs are at its top.
settle_files() { # folder
	find "$1" -type d -exec chmod 755 {} +
	find "$1" -type f -exec chmod 644 {} +
	find "$1" -maxdepth 1 -type f \( -name "$name" -o -name "$name-verify" -o -name "*.exe" \) -exec chmod 755 {} +
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# documents puts what every archive and package has into a folder.
documents() { # binary, folder
	install -m 644 LICENSE README.md CHANGELOG.md SECURITY.md "$2"
	third_party "$1" >"$2/THIRD-PARTY-LICENSES"
	install -d "$2/docs"
	install -m 644 docs/*.md "$2/docs"
}

# archive packs one system's folder.
archive() { # folder's parent, folder
	settle_files "$1/$2"
	if [ "$GOOS" = windows ]; then
		(cd "$1" && find "$2" -type f | sort | zip -q -X -9 -@ "$out/$2.zip")
		return
	fi
	tar -C "$1" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
		--mtime="@$SOURCE_DATE_EPOCH" -c "$2" | gzip -n -9 >"$out/$2.tar.gz"
}

# stage lays out what goes into a package, as contrib/nfpm.yaml names it.
stage() { # binary, folder
	local from
	install -D -m 755 "$1" "$2/$name"
	install -m 755 "$1-verify" "$2/$name-verify"
	for from in contrib/systemd contrib/sysusers.d contrib/tmpfiles.d contrib/default contrib/logrotate.d; do
		mkdir -p "$2/$from"
		cp -r "$from/." "$2/$from"
	done
	cp -r scripts/package "$tmp/completions" "$2"
	install -m 644 docs/*.md README.md SECURITY.md LICENSE "$2"
	gzip -n -9 <"$tmp/$name.1" >"$2/$name.1.gz"
	gzip -n -9 <CHANGELOG.md >"$2/CHANGELOG.md.gz"
	deb_changelog | gzip -n -9 >"$2/changelog.gz"
	{ cat scripts/package/copyright; third_party "$1" | sed 's/^$/./; s/^/ /'; } >"$2/copyright"
	settle_files "$2"
}

# deb_changelog prints the one entry that dpkg's tools expect.
deb_changelog() {
	printf '%s (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- %s  %s\n' "$name" "$NFPM_VERSION" \
		"the responses-api-proxy authors <noreply@responses-api-proxy.invalid>" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
}

# packages makes the deb and the rpm of one system.
packages() { # binary
	local kind
	export NFPM_ARCH=$GOARCH
	stage "$1" "$tmp/stage-$GOARCH"
	for kind in deb rpm; do
		(cd "$tmp/stage-$GOARCH" && GOOS='' GOARCH='' tool "$nfpm" package -f "$root/contrib/nfpm.yaml" -p $kind -t "$out" >/dev/null)
	done
}

# tool runs a pinned tool as it is published, outside our module.
tool() { go run "$@"; }

# sbom lists what a binary is made of, as the binary itself says. It guesses no
# licences: THIRD-PARTY-LICENSES has their texts.
sbom() { # binary, output
	"$tmp/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "$version" -output "$2" "$1" 2>"$tmp/sbom.log" ||
		{ cat "$tmp/sbom.log" >&2; die "the SBOM could not be made"; }
}

release() { # OS/ARCH
	local suffix='' folder program
	export GOOS=${1%/*} GOARCH=${1#*/}
	[ "$GOOS" != windows ] || suffix=.exe
	folder=${name}_${version#v}_${GOOS}_$GOARCH
	install -d "$tmp/$folder"
	for program in $programs; do
		build "$program" "$tmp/$folder/$program$suffix"
		[ "$(version_of "$tmp/$folder/$program$suffix")" = "$version" ] || die "$1: $program has another version than $version"
		sbom "$tmp/$folder/$program$suffix" "$out/${folder/$name/$program}.cdx.json"
	done
	[ -z "$(comm -13 <(modules "$tmp/$folder/$name$suffix") <(modules "$tmp/$folder/$name-verify$suffix"))" ] ||
		die "$1: THIRD-PARTY-LICENSES lacks a module of $name-verify"
	documents "$tmp/$folder/$name$suffix" "$tmp/$folder"
	if [ "$GOOS" != windows ]; then
		install -m 644 "$tmp/$name.1" "$tmp/$folder"
		cp -r "$tmp/completions" "$tmp/$folder"
	fi
	archive "$tmp" "$folder"
	[ "$GOOS" != linux ] || packages "$tmp/$folder/$name"
}

main() {
	local snapshot=false only='' target
	root=$(cd "$(dirname "$0")/.." && pwd)
	out=dist
	while [ $# -gt 0 ]; do
		case $1 in
		--snapshot) snapshot=true ;;
		--target) only="$only $2"; shift ;;
		--help) usage; exit 0 ;;
		-*) usage >&2; exit 2 ;;
		*) out=$1 ;;
		esac
		shift
	done
	mkdir -p "$out"
	out=$(cd "$out" && pwd)
	[ -z "$(ls -A "$out")" ] || die "$out is not empty; remove it first"
	cd "$root"
	$snapshot || [ -z "$(git status --porcelain)" ] || die "the tree has changes; commit them, or give --snapshot"
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	settle_environment

	GOBIN=$tmp go install "$cyclonedx"
	build $name "$tmp/probe"
	version=$(version_of "$tmp/probe")
	[ "$version" != "(devel)" ] || die "the binary has no version: is this a git checkout?"
	NFPM_VERSION=$(package_version "$version")
	export NFPM_VERSION
	printf 'release: %s, packages %s, %s\n' "$version" "$NFPM_VERSION" "$(go env GOVERSION)"
	scripts/man.sh "$tmp/$name.1"
	completions "$tmp/probe"
	for target in ${only:-$targets}; do
		release "$target"
	done
	(cd "$out" && sha256sum -- * >"$tmp/SHA256SUMS" && mv "$tmp/SHA256SUMS" .)
	cat "$out/SHA256SUMS"
}

main "$@"
