#!/usr/bin/env bash
# Builds the image without a network, or takes ARCHIVE, which scripts/release.sh made, and runs it as contrib/kubernetes/sidecar.yaml
# would: read-only, not root, no capabilities, no-new-privileges, containerd's
# default seccomp profile; the key from a mounted file, which is replaced as a
# Secret is, a unix socket for the agent, health by the subcommand.
#
# It needs root, git, buildah, crun, jq and curl (Debian), and Go with the modules in its cache.
# There is no container engine and no cluster in it: bind mounts replace networks, volumes
# and Secrets, and this host's /usr replaces the golang image that the first stage starts from.
#
#	try.sh [ARCHIVE.oci.tar]
set -euo pipefail
archive=${1:+$(realpath "$1")} # before the directory changes
cd "$(dirname "$0")/../.."
# In a mount namespace of its own: mounts vanish with it, and crun, which cannot
# do with both versions of cgroups, finds the second alone.
if [ -z "${TRY_CONTAINER_INSIDE:-}" ]; then
	TRY_CONTAINER_INSIDE=1 exec unshare --mount --propagation private "$PWD/contrib/container/try.sh" ${archive:+"$archive"}
fi
mount -t cgroup2 cgroup2 /sys/fs/cgroup
tmp=$(mktemp -d /tmp/try-container.XXXXXX)
key=sk-made-up-for-try-container-0123456789
buildah() { command buildah --storage-driver vfs --root "$tmp/storage" --runroot "$tmp/run" "$@"; }
crun() { command crun --root "$tmp/crun" "$@"; }
die() { printf 'try-container: %s\n' "$*" >&2; cat "$tmp/log" >&2 2>/dev/null || true; exit 1; }
said() { printf '  %s\n' "$*"; }
clean_up() {
	crun kill try-container KILL 2>/dev/null || true
	[ -z "${upstream:-}" ] || kill "$upstream" 2>/dev/null || true
	wait
	crun delete -f try-container 2>/dev/null || true
	[ -z "${work:-}" ] || buildah rm "$work" >/dev/null 2>&1 || true
	rm -rf "$tmp"
}
trap clean_up EXIT

# golang_image makes an image of the name that the Containerfile starts from, for build's mounts.
golang_image() {
	local container directory
	container=$(buildah from scratch)
	directory=$(buildah mount "$container")
	mkdir -p "$directory"/{usr,tmp,etc/ssl/certs,root,go}
	ln -s usr/bin usr/sbin usr/lib usr/lib64 "$directory"
	buildah config --env "PATH=$(go env GOROOT)/bin:/usr/bin" --env GOPATH=/go --env GOPROXY=off "$container"
	buildah commit -q --rm "$container" docker.io/library/golang:1.26 >/dev/null
}

# build makes the image from the working tree.
build() {
	golang_image
	# A clone, as -buildvcs needs the repository, and .git is only a file in a worktree.
	git clone -q . "$tmp/context"
	git ls-files -z -c -o --exclude-standard | tar --null -T - -c | tar -x -C "$tmp/context"
	buildah bud -q --isolation chroot --format docker -v /usr:/usr:ro -v /etc/ssl/certs:/etc/ssl/certs:ro \
		-v "$(go env GOROOT):$(go env GOROOT):ro" -v "$(go env GOMODCACHE):/go/pkg/mod" -v "$(go env GOCACHE):/root/.cache/go-build" \
		-t try -f contrib/container/Containerfile "$tmp/context" >/dev/null
	buildah inspect --type image --format '{{.Docker.Config.Healthcheck}}' try | grep -q '/responses-api-proxy health' || die "the image has no health check"
}

# unpack puts the image's files into $rootfs.
unpack() {
	local licences=''
	if [ -n "$archive" ]; then
		buildah tag "$(buildah pull -q "oci-archive:$archive")" try
		licences="./LICENSE ./THIRD-PARTY-LICENSES "
	else
		build
	fi
	work=$(buildah from try)
	rootfs=$(buildah mount "$work")
	[ "$(cd "$rootfs" && find . -type f | LC_ALL=C sort | tr '\n' ' ')" = "$licences./etc/ssl/certs/ca-certificates.crt ./responses-api-proxy ./responses-api-proxy-verify " ] ||
		die "there is more in the image"
	[ "$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' try)" = "65532:65532 [/responses-api-proxy]" ] ||
		die "the image has another user or entry point"
	[ "$(stat -c '%u:%g %a' "$rootfs/responses-api-proxy")" = "0:0 711" ] || die "its user could read the program"
	said "the image holds the two programs and the authorities, and nothing else${licences:+ but licences}"
}

# seccomp prints containerd's default profile for a container without capabilities.
seccomp() {
	mkdir "$tmp/profile"
	cat >"$tmp/profile/main.go" <<-'END'
		package main

		import (
			"encoding/json"
			"os"

			"github.com/containerd/containerd/v2/contrib/seccomp"
			"github.com/opencontainers/runtime-spec/specs-go"
		)

		func main() {
			none := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
			json.NewEncoder(os.Stdout).Encode(seccomp.DefaultProfile(none))
		}
	END
	(cd "$tmp/profile" && export GOFLAGS=-mod=mod && go mod init profile 2>/dev/null && go get github.com/containerd/containerd/v2@v2.4.2 2>/dev/null && go run . 2>/dev/null)
}

# mount_secret makes the files of a mounted Secret as the kubelet does: in a
# directory of their own, to which a link leads that is replaced in one step.
mount_secret() { # directory, key
	mkdir "$tmp/key/..$1"
	printf '%s\n' "$2" >"$tmp/key/..$1/key"
	chown root:65532 "$tmp/key/..$1/key"
	chmod 440 "$tmp/key/..$1/key"
	ln -s "..$1" "$tmp/key/..data_tmp"
	mv -T "$tmp/key/..data_tmp" "$tmp/key/..data"
}

# bundle writes what a runtime is told. Folders stand in for volumes.
bundle() {
	mkdir -p "$tmp/bundle" "$tmp/key" "$tmp/shared/socket" "$tmp/shared/metrics"
	chmod 755 "$tmp"
	chown 65532:65532 "$tmp"/shared/*
	mount_secret one "$key"
	ln -s ..data/key "$tmp/key/key"
	chmod 1777 "$tmp/key"
	seccomp >"$tmp/seccomp.json"
	(cd "$tmp/bundle" && crun spec)
	jq --arg rootfs "$rootfs" --arg tmp "$tmp" --slurpfile seccomp "$tmp/seccomp.json" '
		def bind(from; to; how): {destination: to, type: "bind", source: ($tmp + from), options: ["bind", how]};
		.root = {path: $rootfs, readonly: true}
		| .process.terminal = false
		| .process.user = {uid: 65532, gid: 65532}
		| .process.capabilities = {}
		| .process.noNewPrivileges = true
		| .process.args = ["/responses-api-proxy", "--protection=strict", "--key-file=/key/key",
			"--listen=unix:/run/responses-api-proxy/proxy.sock", "--metrics=unix:/run/metrics/metrics.sock", "--allow-user=10001",
			"--upstream-url=http://127.0.0.1:9077/v1/responses"]
		| .mounts += [bind("/key"; "/key"; "ro"),
			bind("/shared/socket"; "/run/responses-api-proxy"; "rw"), bind("/shared/metrics"; "/run/metrics"; "rw")]
		| .linux.namespaces |= map(select(.type != "network" and .type != "cgroup"))
		| del(.linux.resources)
		| .linux.seccomp = $seccomp[0]' "$tmp/bundle/config.json" >"$tmp/config.json"
	mv "$tmp/config.json" "$tmp/bundle/config.json"
}

call() { setpriv --reuid "$1" --regid "$1" --clear-groups curl -s -m 20 -o /dev/null -w '%{http_code}' --unix-socket "$tmp/shared/socket/proxy.sock" -d '{"input":"hello"}' http://localhost/v1/responses || true; }

unpack
# What crun makes in an empty root as places to mount on.
mkdir -p "$rootfs"/{key,run/responses-api-proxy,run/metrics,proc,dev,sys}
bundle
CGO_ENABLED=0 go build -o "$tmp/standin" scripts/standin.go
"$tmp/standin" 127.0.0.1:9077 "$key" >/dev/null &
upstream=$!
crun --cgroup-manager=disabled run -b "$tmp/bundle" try-container >"$tmp/log" 2>&1 </dev/null &

deadline=$((SECONDS + 15))
until crun exec -u 65532:65532 try-container /responses-api-proxy health unix:/run/metrics/metrics.sock >"$tmp/health" 2>&1; do
	[ $SECONDS -lt $deadline ] || die "it does not become healthy: $(cat "$tmp/health")"
	sleep 0.2
done
said "health, run inside, says that it serves"
grep ' protections ' "$tmp/log" | sed 's/^/  /'
grep -q ' start-window=closed ' "$tmp/log" || die "processes of its user could attach as it started"
[ "$(call 10001)" = 200 ] || die "the agent gets no answer"
said "the agent's user gets an answer through the socket"
[ "$(call 10002)" = 403 ] || die "another user is not refused"
said "another user is refused"
mount_secret two sk-revoked-0123456789abcdefgh
rm -r "$tmp/key/..one"
crun kill try-container HUP
deadline=$((SECONDS + 15))
until grep -q 'API key reloaded' "$tmp/log"; do
	[ $SECONDS -lt $deadline ] || die "the key is not read again"
	sleep 0.2
done
[ "$(call 10001)" = 401 ] || die "the other key is not used"
said "another key comes by a swap of the Secret's directory and SIGHUP"
! crun exec try-container /bin/sh -c true 2>/dev/null || die "there is a shell in the image"
said "there is no shell in the image"
crun exec -u 65532:65532 try-container /responses-api-proxy verify --help | grep -q '^Usage: responses-api-proxy verify' || die "verify does not find the attack suite"
said "verify, run inside, finds the attack suite"
printf '\ntry-container: everything above holds\n'
