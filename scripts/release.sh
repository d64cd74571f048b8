#!/usr/bin/env bash
# Makes everything that a release has, in OUTDIR (default: dist): for six systems
# static binaries of the proxy and of its attack suite, in archives, in deb, rpm,
# apk and Arch packages, in OCI images and in npm packages, with an SBOM (CycloneDX) of
# each; a Homebrew formula, a winget and a Scoop manifest; an in-toto provenance statement
# and SHA256SUMS over all of it. docs/install.md describes each for users.
#
# It builds in a clone of its own, from the tag VERSION if there is one, from HEAD
# otherwise, to which it gives that version. Without --version the version comes
# from git. A tree with changes is refused, unless --snapshot brings them along.
# --target limits the systems, and leaves out the manifests that need all of them.
#
# The same commit, version and Go give the same bytes, wherever and whenever it
# runs: scripts/test-release.sh tests that. Nothing is signed or published here;
# .github/workflows/release.yml does that. It needs git, Go, zip, GNU tar and gzip,
# and no network but a Go module proxy, from which the pinned tools come.
set -euo pipefail

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
roots=golang.org/x/crypto/x509roots/fallback@v0.0.0-20261030153154-30a33513ff6d
name=responses-api-proxy
repository=https://github.com/responses-api-proxy/responses-api-proxy
programs="$name $name-verify"
all_targets="linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64"

die() { printf 'release: %s\n' "$*" >&2; exit 1; }
usage() { printf 'Usage: release.sh [--version vX.Y.Z] [--snapshot] [--target OS/ARCH]... [OUTDIR]\n'; }

# settle_environment removes the differences between two machines.
settle_environment() {
	unset CDPATH GZIP ZIPOPT TAR_OPTIONS GOEXPERIMENT GODEBUG GOOS GOARCH
	export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOWORK=off GOFLAGS=
	umask 022
}

# clone puts the source of the release into $tmp/src, with the given version.
clone() { # given version or nothing, whether changes come along
	local commit=HEAD tagged=false
	[[ -z $1 || $1 =~ ^v[01]\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "--version $1 is not like v0.1.0 or v0.1.0-rc.1"
	if [ -n "$1" ] && git rev-parse -q --verify "refs/tags/$1" >/dev/null; then
		commit=refs/tags/$1 tagged=true
	elif [ -n "$(git status --porcelain)" ]; then
		$2 || die "the tree has changes; commit them, or give --snapshot"
	fi
	commit=$(git rev-parse "$commit^{commit}")
	git clone -q . "$tmp/src" 2>/dev/null || die "git clone failed"
	git -C "$tmp/src" checkout -q --detach "$commit"
	if ! $tagged; then
		[ -z "$1" ] || git -C "$tmp/src" tag "$1"
		git diff --binary HEAD | git -C "$tmp/src" apply --allow-empty
		git ls-files -z -o --exclude-standard | tar --null -T - -c | tar -x -C "$tmp/src"
	fi
}

# build compiles for GOOS and GOARCH. -buildvcs gives it its version.
build() { # program, output
	go build -trimpath -buildvcs=true -ldflags=-s -o "$2" "./cmd/$1"
}

# version_of prints the module version that the go command wrote into a binary.
version_of() { go version -m "$1" | awk '$1 == "mod" { print $3 }'; }

# package_version turns v1.2.3-rc.1 into what a kind of package sorts before 1.2.3:
# a dash separates something else there.
package_version() { # kind
	local v=${version#v}
	case $1 in
	deb | rpm) sed 's/-/~/; s/-/./g' <<<"$v" ;;
	apk) sed -E 's/-(alpha|beta|rc)\.?/_\1/; s/-.*([0-9]{14}).*/_pre\1/' <<<"$v" ;;
	archlinux) sed -E 's/-([a-z])/\1/; s/-/./g' <<<"$v" ;;
	esac
}

# modules prints the modules that a binary is made of, and their versions.
modules() { go version -m "$1" | awk '$1 == "dep" { print $2, $3 }' | sort; } # binary

# third_party prints the licences that must accompany a binary. The proxy contains
# all modules of the attack suite; release checks that.
third_party() { # binary
	printf 'This program contains the work of others:\n'
	# BSD-3 and similar licences require their text with every copy of the binary.
	modules "$1" | while read -r module version; do
		printf '\n== %s %s\n\n' "$module" "$version"
		cat "$(go list -m -f '{{.Dir}}' "$module")/LICENSE"
	done
	printf '\n== The Go standard library and runtime, %s\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
}

# completions writes the program's completions for each shell.
completions() { # binary that runs here
	mkdir "$tmp/completions"
	"$1" completion bash >"$tmp/completions/$name.bash"
	"$1" completion zsh >"$tmp/completions/_$name"
	"$1" completion fish >"$tmp/completions/$name.fish"
}

# documents copies docs and contrib to where their links to each other hold.
documents() { # directory for both
	mkdir -p "$1/docs"
	cp -r docs/*.md docs/pictures "$1/docs"
	cp -r contrib "$1"
	rm -r "$1/contrib/nfpm.yaml" "$1/contrib/npm"
}

# settle_files gives every file below a directory the commit's time, and modes that
# do not depend on whose checkout it came from. The programs are at its top.
settle_files() { # directory
	find "$1" -type d -exec chmod 755 {} +
	find "$1" -type f -exec chmod 644 {} +
	find "$1" -type f -name "*.sh" -exec chmod 755 {} +
	find "$1" -maxdepth 1 -type f \( -name "$name" -o -name "$name-verify" -o -name "*.exe" \) -exec chmod 755 {} +
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# pack writes a tar file that depends on names, modes and contents alone.
pack() { # parent, files and directories...
	tar -C "$1" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -c "${@:2}"
}

# tarball packs one directory.
tarball() { # parent, directory, output
	settle_files "$1/$2"
	pack "$1" "$2" | gzip -n -9 >"$3"
}

# archive packs the programs of one system with their documents.
archive() { # directory of the programs, archive's name without its ending
	local dir=$tmp/archive/$2
	install -d "$dir"
	cp "$1"/* LICENSE README.md CHANGELOG.md SECURITY.md "$dir"
	documents "$dir"
	if [ "$GOOS" = windows ]; then
		settle_files "$dir"
		(cd "$tmp/archive" && find "$2" -type f | sort | zip -q -X -9 -@ "$out/$2.zip")
		return
	fi
	cp -r "$tmp/$name.1" "$tmp/completions" "$dir"
	tarball "$tmp/archive" "$2" "$out/$2.tar.gz"
}

# stage lays out the contents of a package, as contrib/nfpm.yaml names them.
stage() { # directory of the programs, output
	mkdir -p "$2"
	cp -r "$1"/* scripts/package "$tmp/completions" README.md SECURITY.md LICENSE "$2"
	documents "$2"
	gzip -n -9 <"$tmp/$name.1" >"$2/$name.1.gz"
	gzip -n -9 <CHANGELOG.md >"$2/CHANGELOG.md.gz"
	deb_changelog | gzip -n -9 >"$2/changelog.gz"
	{ cat scripts/package/copyright; sed 's/^$/./; s/^/ /' "$1/THIRD-PARTY-LICENSES"; } >"$2/copyright"
	settle_files "$2"
}

# deb_changelog prints the one entry that dpkg's tools expect.
deb_changelog() {
	printf '%s (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- %s  %s\n' "$name" "$(package_version deb)" \
		"the responses-api-proxy authors <noreply@responses-api-proxy.invalid>" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
}

# packages makes the packages of one architecture of Linux.
packages() { # directory of the programs
	local kind stage=$tmp/stage/$GOARCH
	export NFPM_ARCH=$GOARCH NFPM_VERSION
	stage "$1" "$stage"
	for kind in deb rpm apk archlinux; do
		NFPM_VERSION=$(package_version $kind)
		(cd "$stage" && GOOS='' GOARCH='' go run "$nfpm" package -f "$tmp/src/contrib/nfpm.yaml" -p $kind -t "$out" >/dev/null)
	done
}

# authorities prints Mozilla's CA certificates. It omits those with a constraint, which PEM cannot express.
authorities() {
	local bundle start size
	bundle=$(go mod download -json "$roots" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')/bundle
	awk '/certStartOff:/ { start = $2 + 0 } /certLength:/ { size = $2 + 0 } /distrustAfter:/ { constrained = 1 }
		/^\t},/ { if (!constrained) print start, size; constrained = 0 }' "$bundle/bundle.go" |
		while read -r start size; do
			printf -- '-----BEGIN CERTIFICATE-----\n'
			dd if="$bundle/bundle.der" iflag=skip_bytes,count_bytes skip="$start" count="$size" status=none | base64 -w 64
			printf -- '-----END CERTIFICATE-----\n'
		done
}

# blob moves a file into the OCI layout beside it, and prints its descriptor.
blob() { # media type without its prefix, file
	local digest size
	digest=$(sha256sum <"$2" | cut -d' ' -f1)
	size=$(stat -c %s "$2")
	mv "$2" "${2%/*}/layout/blobs/sha256/$digest"
	printf '"mediaType": "application/vnd.oci.image.%s", "digest": "sha256:%s", "size": %d' "$1" "$digest" "$size"
}

# instruction prints the arguments of an instruction of the Containerfile.
instruction() { sed -n "s/^$1 //p" contrib/container/Containerfile; } # name

# image writes the image of one architecture of Linux as an OCI archive: the files
# and the configuration of contrib/container/Containerfile, and the licences.
image() { # directory of the programs, output
	local dir=$tmp/image/$GOARCH layer
	install -d "$dir/root/etc/ssl/certs" "$dir/layout/blobs/sha256"
	cp "$1"/* LICENSE "$dir/root"
	cp "$tmp/ca-certificates.crt" "$dir/root/etc/ssl/certs"
	settle_files "$dir/root"
	chmod 711 "$dir/root/$name"
	pack "$dir/root" . >"$dir/layer"
	layer=$(sha256sum <"$dir/layer" | cut -d' ' -f1)
	gzip -n -9 "$dir/layer"
	cat >"$dir/config" <<-END
		{
		  "created": "$(date -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)", "os": "$GOOS", "architecture": "$GOARCH",
		  "config": {"User": "$(instruction USER)", "Entrypoint": $(instruction ENTRYPOINT), "Cmd": $(instruction CMD)},
		  "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}
		}
	END
	cat >"$dir/manifest" <<-END
		{
		  "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		  "config": {$(blob config.v1+json "$dir/config")},
		  "layers": [{$(blob layer.v1.tar+gzip "$dir/layer.gz")}]
		}
	END
	cat >"$dir/layout/index.json" <<-END
		{
		  "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		  "manifests": [{
		    $(blob manifest.v1+json "$dir/manifest"), "platform": {"os": "$GOOS", "architecture": "$GOARCH"},
		    "annotations": {"org.opencontainers.image.ref.name": "$name:$(npm_version)"}
		  }]
		}
	END
	printf '{"imageLayoutVersion": "1.0.0"}' >"$dir/layout/oci-layout"
	pack "$dir/layout" blobs index.json oci-layout >"$2"
}

# fill copies a template with its placeholders replaced: @VERSION@, @DATE@, @OS@,
# @CPU@ and @NPM_VERSION@ as npm has them, and @SHA256_linux_amd64@ for each archive.
fill() { # template, output
	local cpu=${GOARCH:-} system archive
	{
		printf 's/@VERSION@/%s/g\ns/@NPM_VERSION@/%s/g\ns/@DATE@/%s/g\n' "${version#v}" "$(npm_version)" "$(date -d "@$SOURCE_DATE_EPOCH" +%F)"
		printf 's/@OS@/%s/g\ns/@CPU@/%s/g\n' "$(npm_os)" "${cpu/amd64/x64}"
		for system in ${all_targets//\//_}; do
			for archive in "$out/${name}_${version#v}_$system".{tar.gz,zip}; do
				[ ! -e "$archive" ] || printf 's/@SHA256_%s@/%s/g\n' "$system" "$(sha256sum <"$archive" | cut -d' ' -f1)"
			done
		done
	} >"$tmp/fill.sed"
	sed -f "$tmp/fill.sed" "$1" >"$2"
	! grep -nE '@[A-Z][A-Za-z0-9_]*@' "$2" || die "$1: a placeholder has no value"
}

# npm_version is without build metadata, which npm drops.
npm_version() { local v=${version#v}; printf '%s' "${v%+*}"; }
npm_os() { local os=${GOOS:-}; printf '%s' "${os/windows/win32}"; }

# npm_platform makes the npm package that has one system's programs.
npm_platform() { # directory of the programs
	local dir cpu=${GOARCH/amd64/x64}
	dir=$tmp/npm/$(npm_os)-$cpu
	mkdir -p "$dir/package"
	cp "$1"/* LICENSE contrib/npm/platform/README.md "$dir/package"
	fill contrib/npm/platform/package.json "$dir/package/package.json"
	tarball "$dir" package "$out/$name-$(npm_os)-$cpu-$(npm_version).tgz"
}

# npm_launcher makes the npm package that users install.
npm_launcher() {
	local dir=$tmp/npm/cli
	mkdir -p "$dir/package"
	cp LICENSE contrib/npm/cli/README.md contrib/npm/cli/launcher.js "$dir/package"
	fill contrib/npm/cli/package.json "$dir/package/package.json"
	tarball "$dir" package "$out/$name-cli-$(npm_version).tgz"
}

# manifests describes the archives to Homebrew, winget and Scoop.
manifests() {
	local f
	for f in scripts/package/manifests/*; do
		fill "$f" "$out/${f##*/}"
	done
}

# sbom lists the modules of a binary, from the binary itself. It guesses no
# licences: THIRD-PARTY-LICENSES has their texts.
sbom() { # binary, output
	"$tmp/cyclonedx-gomod" bin -json -std -noserial -notimestamp -version "$version" -output "$2" "$1" 2>"$tmp/sbom.log" ||
		{ cat "$tmp/sbom.log" >&2; die "the SBOM could not be made"; }
}

# provenance states which source and tools each file was made from (in-toto
# Statement v1, SLSA provenance v1). It has no time and no run's name, which would
# differ, and no signature.
provenance() {
	local commit
	commit=$(git rev-parse HEAD)
	cat <<-END
		{
		  "_type": "https://in-toto.io/Statement/v1",
		  "subject": [
		$(cd "$out" && sha256sum -- * | sed -E 's|^([0-9a-f]+)  (.*)$|    {"name": "\2", "digest": {"sha256": "\1"}},|; $s/,$//')
		  ],
		  "predicateType": "https://slsa.dev/provenance/v1",
		  "predicate": {
		    "buildDefinition": {
		      "buildType": "$repository/blob/main/scripts/release.sh",
		      "externalParameters": {"repository": "$repository", "version": "$version", "targets": "$targets"},
		      "resolvedDependencies": [
		        {"uri": "git+$repository", "digest": {"gitCommit": "$commit"}},
		        {"uri": "https://go.dev/dl/$(go env GOVERSION).src.tar.gz"},
		        {"uri": "pkg:golang/${nfpm%%/cmd/*}@${nfpm##*@}"},
		        {"uri": "pkg:golang/${cyclonedx%%/cmd/*}@${cyclonedx##*@}"},
		        {"uri": "pkg:golang/$roots"}
		      ]
		    },
		    "runDetails": {"builder": {"id": "$repository/blob/$commit/scripts/release.sh"}}
		  }
		}
	END
}

release() { # OS/ARCH
	local suffix='' bin program system
	export GOOS=${1%/*} GOARCH=${1#*/}
	[ "$GOOS" != windows ] || suffix=.exe
	bin=$tmp/bin/${GOOS}_$GOARCH
	system=${version#v}_${GOOS}_$GOARCH
	install -d "$bin"
	for program in $programs; do
		build "$program" "$bin/$program$suffix"
		[ "$(version_of "$bin/$program$suffix")" = "$version" ] || die "$1: $program has another version than $version"
		sbom "$bin/$program$suffix" "$out/${program}_$system.cdx.json"
	done
	[ -z "$(comm -13 <(modules "$bin/$name$suffix") <(modules "$bin/$name-verify$suffix"))" ] ||
		die "$1: THIRD-PARTY-LICENSES lacks a module of $name-verify"
	third_party "$bin/$name$suffix" >"$bin/THIRD-PARTY-LICENSES"
	archive "$bin" "${name}_$system"
	npm_platform "$bin"
	if [ "$GOOS" = linux ]; then
		packages "$bin"
		image "$bin" "$out/${name}_$system.oci.tar"
	fi
	unset GOOS GOARCH
}

main() {
	local snapshot=false given='' target
	out=dist targets=''
	while [ $# -gt 0 ]; do
		case $1 in
		--snapshot) snapshot=true ;;
		--version) given=$2; shift ;;
		--target) targets="$targets $2"; shift ;;
		--help) usage; exit 0 ;;
		-*) usage >&2; exit 2 ;;
		*) out=$1 ;;
		esac
		shift
	done
	targets=${targets# }
	mkdir -p "$out"
	out=$(cd "$out" && pwd)
	[ -z "$(ls -A "$out")" ] || die "$out is not empty; remove it first"
	cd "$(dirname "$0")/.."
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	settle_environment
	clone "$given" $snapshot
	cd "$tmp/src"
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
	export SOURCE_DATE_EPOCH

	GOBIN=$tmp go install "$cyclonedx"
	build $name "$tmp/probe"
	version=$(version_of "$tmp/probe")
	[ "$version" != "(devel)" ] || die "the binary has no version: is this a git checkout?"
	[ -z "$given" ] || [ "$version" = "$given" ] || die "the binary says $version, not $given"
	printf 'release: %s, %s\n' "$version" "$(go env GOVERSION)"
	scripts/man.sh "$tmp/$name.1"
	completions "$tmp/probe"
	authorities >"$tmp/ca-certificates.crt"
	for target in ${targets:=$all_targets}; do
		release "$target"
	done
	npm_launcher
	[ "$targets" != "$all_targets" ] || manifests
	provenance >"$tmp/provenance"
	mv "$tmp/provenance" "$out/${name}_${version#v}.intoto.json"
	(cd "$out" && sha256sum -- * >"$tmp/SHA256SUMS" && mv "$tmp/SHA256SUMS" .)
	cat "$out/SHA256SUMS"
}

main "$@"
