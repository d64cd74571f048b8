#!/usr/bin/env bash
# Runs the program on kernels of other versions and on another architecture: in virtual machines, by emulation, with
# Debian's and Ubuntu's kernels, the two programs and tests from this tree, and busybox. It prints one table, a row for
# each check with its seconds. This machine's settings stay as they are.
#
#	try-kernels.sh [--write] [--kernels REGEXP] [--checks NAME,...]
#
#	--write      put the results into the table of docs/platforms.md as well, where all other cells stay
#	--kernels    those whose column's head matches; "list" prints them all
#	--checks     some of the checks of scripts/kernels/init; separated by commas
#
# It needs qemu-system-x86_64 and qemu-system-aarch64, cpio, apt-get, and a mirror for each suite. What was downloaded is
# kept in $TRY_KERNELS_CACHE (default: ~/.cache/responses-api-proxy/kernels). A kernel that cannot be downloaded is said
# in the table and fails nothing; a check that fails, or a machine that does not end, makes the exit code 1.
# TRY_KERNELS_LOGS=DIR keeps the consoles' logs.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/platforms.md
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false

# Each is a column: head, suite, package that depends on the kernel, boot parameters.
kernels='
6.1 amd64|bookworm|linux-image-cloud-amd64|
6.1 amd64 secretmem|bookworm|linux-image-cloud-amd64|secretmem.enable=1
6.12 amd64|trixie|linux-image-cloud-amd64|
newest amd64|trixie-backports|linux-image-cloud-amd64|
Azure amd64|noble-updates|linux-image-azure|
6.1 arm64|bookworm|linux-image-cloud-arm64|
6.12 arm64|trixie|linux-image-cloud-arm64|
newest arm64|trixie-backports|linux-image-cloud-arm64|
'
checks='boot protections strict tls user callers restart verify stand-in memory calls sandbox secret peer listen window package'

limit=3600 # seconds for one machine; the emulation is slow, and other programs may run
cache=${TRY_KERNELS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/responses-api-proxy/kernels}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
results=$tmp/results
mkdir "$results"

die() { printf 'try-kernels: %s\n' "$*" >&2; exit 1; }

# in_suite runs an apt command that knows one suite of both architectures and nothing of this machine's packages.
in_suite() { APT_CONFIG=$cache/$1/apt.conf "${@:2}"; }

# open_suite reads a suite's lists, or fails if they cannot be had.
open_suite() { # suite
	[ ! -e "$tmp/$1.ok" ] || return 0
	local dir=$cache/$1 archive=http://deb.debian.org/debian options=signed-by=/usr/share/keyrings/debian-archive-keyring.gpg
	mkdir -p "$dir"/{lists/partial,archives/partial,debs}
	if [ "$1" = noble-updates ]; then
		archive=http://archive.ubuntu.com/ubuntu options="arch=amd64 signed-by=$cache/trixie/ubuntu/usr/share/keyrings/ubuntu-archive-keyring.gpg"
		get trixie ubuntu-keyring "$cache/trixie/ubuntu" || return 1
	fi
	echo "deb [targets=Packages $options] $archive $1 main" >"$dir/sources.list"
	cat >"$dir/apt.conf" <<-CONF
		Dir::State "$dir"; Dir::State::status "/dev/null"; Dir::Cache "$dir"; Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null"; Dir::Etc::preferencesparts "/dev/null"; APT::Architectures { "amd64"; "arm64"; };
		Acquire::Languages "none"; Acquire::Retries "2"; Acquire::http::Timeout "20"; APT::Sandbox::User "root"; APT::Get::List-Cleanup "false";
	CONF
	in_suite "$1" timeout 300 apt-get update -qq >"$tmp/apt.log" 2>&1 && ! grep -q '^[WE]:' "$tmp/apt.log" || return 1
	touch "$tmp/$1.ok"
}

# get unpacks a package of a suite into a directory.
get() { # suite, package, directory
	open_suite "$1" || return 1
	local deb
	deb=$(in_suite "$1" apt-get download -qq --print-uris "$2" 2>/dev/null | cut -d' ' -f2)
	(cd "$cache/$1/debs" && in_suite "$1" timeout 600 apt-get download -qq "$2" >/dev/null 2>&1) || return 1
	mkdir -p "$3"
	dpkg-deb -x "$cache/$1/debs/$deb" "$3"
}

# get_kernel unpacks the kernel that a package depends on, with its modules.
get_kernel() { # suite, package, architecture, directory
	open_suite "$1" || return 1
	local image part
	image=$(in_suite "$1" apt-cache depends "$2:$3" | sed -n 's/^ *Depends: \(linux-image-[0-9][^:]*\).*/\1/p' | head -n 1)
	[ -n "$image" ] || return 1
	for part in image binary modules; do
		part=linux-$part-${image#linux-image-}
		if in_suite "$1" apt-cache show "$part:$3" >/dev/null 2>&1; then get "$1" "$part:$3" "$4" || return 1; fi
	done
	part=$(find "$4" -name 'vmlinuz*' -type f) # below /boot, or since 7.3 beside the modules
	[ -n "$part" ] && mv "$part" "$4/vmlinuz"
}

# wants reports whether a check is to be made.
wants() { [[ " $checks " = *" $1 "* ]]; }

# make_base packs what all machines of an architecture have.
make_base() { # architecture
	[ ! -e "$tmp/base.$1" ] || return 0
	local root=$tmp/root.$1 name check
	mkdir -p "$root"/{bin,etc,programs,tests}
	cp "$tmp/busybox.$1/bin/busybox" "$root/bin/"
	export GOARCH=$1
	go build -trimpath -ldflags='-s -w' -o "$root/programs/" \
		./cmd/responses-api-proxy ./cmd/responses-api-proxy-verify ./e2e/keyleak/testdata/scan ./e2e/keyleak/testdata/probe
	go test -c -tags kernels -ldflags='-s -w' -o "$root/tests/kernels.test" ./e2e/kernels
	for name in internal/{host/{sandbox,peer,listen},key/secret} e2e/keyleak:memory e2e/escape:calls; do
		check=${name##*[/:]}
		! wants "$check" || go test -c -ldflags='-s -w' -o "$root/tests/$check.test" "./${name%:*}"
	done
	unset GOARCH
	install -m 755 scripts/kernels/init "$root/init"
	install -m 755 scripts/kernels/go "$root/programs/go"
	chmod 711 "$root/programs/responses-api-proxy"
	printf 'root:x:0:0::/:\ndaemon:x:1:1::/:\nnobody:x:65534:65534::/:\n' >"$root/etc/passwd"
	printf 'root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n' >"$root/etc/group"
	printf 'root:*:\n' >"$root/etc/shadow"
	printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
	printf 'nameserver 127.0.0.1\n' >"$root/etc/resolv.conf"
	printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$tmp/base.$1"
}

# pack_modules packs those that a system would load by itself: for a disk, and for sock_diag(7), which says who calls.
pack_modules() { # directory of the kernel
	mkdir -p "$1/pack/modules"
	find "$1" -regex '.*/\(virtio\|virtio_ring\|virtio_pci\|virtio_pci_[a-z]*_dev\|virtio_blk\|inet_diag\|tcp_diag\)\.ko.*' | while read -r file; do
		case $file in
		*.xz) xz -dc "$file" ;;
		*.zst) zstd -qdc "$file" ;;
		*) cat "$file" ;;
		esac >"$1/pack/modules/$(basename "${file%.ko*}").ko"
	done
	(cd "$1/pack" && find . | cpio -o -H newc --quiet | gzip -1)
}

# boot runs a machine until it powers off, and prints its console.
boot() { # architecture, kernel, initrd, parameters, further arguments of QEMU
	# On a busy host the emulated timer may come too late for the kernel's check of it, which panics.
	local qemu=(qemu-system-x86_64) console='ttyS0 no_timer_check' cpu=max
	if [ "$1" = arm64 ]; then qemu=(qemu-system-aarch64 -M virt) console=ttyAMA0 cpu=max,pauth-impdef=on; fi
	timeout $limit "${qemu[@]}" -accel tcg -cpu $cpu -smp 2 -m 768 -nic none -nographic -no-reboot "${@:5}" \
		-kernel "$2" -initrd "$3" -append "console=$console quiet panic=-1 $4" </dev/null 2>&1
}

# get_debian installs a minimal Debian 12, or fails if it cannot be downloaded.
get_debian() { # directory
	[ ! -e "$1.ready" ] || return 0
	rm -rf "$1"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,curl bookworm "$1" >"$tmp/debootstrap.log" 2>&1 && touch "$1.ready"
}

# make_disk adds the package and its administrator, scripts/kernels/package, to a Debian 12.
make_disk() { # directory of the Debian
	[ ! -e "$tmp/disk" ] || return 0
	local root=$tmp/debian wants
	cp -a "$1" "$root"
	scripts/release.sh --snapshot --target linux/amd64 "$tmp/release" >/dev/null
	cp "$tmp"/release/*.deb "$root/srv/package.deb"
	go build -o "$root/srv/standin" scripts/standin.go
	install -m 755 scripts/kernels/package "$root/srv/package"
	printf '[Service]\nExecStart=/srv/package\nStandardOutput=tty\nTTYPath=/dev/console\n' >"$root/etc/systemd/system/package.service"
	wants=$root/etc/systemd/system/multi-user.target.wants
	mkdir -p "$wants"
	ln -s ../package.service "$wants/"
	mke2fs -q -t ext4 -d "$root" "$tmp/disk" 1G
	rm -rf "$root"
}

# try runs one kernel's checks, and keeps a line for each in $results.
try() { # head, suite, package, parameters
	local name=${1// /-} arch
	local dir=$tmp/kernel.$name log=${TRY_KERNELS_LOGS:-$tmp}/$name.log
	arch=$(cut -d' ' -f2 <<<"$1")
	touch "$results/$name.missing"
	if ! get bookworm "busybox-static:$arch" "$tmp/busybox.$arch" || ! get_kernel "$2" "$3" "$arch" "$dir"; then
		echo "$1: it cannot be downloaded" >&2
		return
	fi
	rm "$results/$name.missing"
	make_base "$arch"
	{ cat "$tmp/base.$arch" && pack_modules "$dir"; } >"$dir/initrd"
	local inside=${checks/ package/}
	if [ "$inside" != boot ]; then
		examine "$inside" "$name" "$log" "$arch" "$4${wanted:+ checks=$wanted}"
	fi
	if wants package && [ "$arch" = amd64 ]; then
		if get_debian "$cache/debian-12"; then
			make_disk "$cache/debian-12"
			examine package "$name" "$log.package" "$arch" "$4 debian=1 systemd.show_status=0" -drive "file=$tmp/disk,format=raw,if=virtio,snapshot=on"
		else
			echo "$1: no Debian can be downloaded for the check of the package" >&2
		fi
	fi
	rm -rf "$dir"
}

# examine boots a machine, in which each of the checks must pass.
examine() { # checks, name of the kernel, log, architecture, parameters, further arguments of QEMU
	local dir=$tmp/kernel.$2 check bad=
	boot "$4" "$dir/vmlinuz" "$dir/initrd" "$5" "${@:6}" >"$3" || echo "$2: the emulator ended with $?" >&2
	tr -d '\r' <"$3" | sed -n 's/^.*@@ //p' >"$tmp/lines"
	for check in $1 end; do grep -q "^$check 0 " "$tmp/lines" || bad="$bad $check"; done
	if [ -n "$bad" ]; then
		failed=1
		printf '== %s failed:%s\n' "$2" "$bad" >&2
		tail -n 200 "$3" >&2
	fi
	cat "$tmp/lines" >>"$results/$2"
}

# cell prints what came of a check on a kernel.
cell() { # head, check
	local code seconds skipped release
	read -r code seconds skipped release < <(sed -n "s/^$2 //p" "$results/${1// /-}" 2>/dev/null) || true
	case $code in
	'') if [ -e "$results/${1// /-}.missing" ]; then echo "no download"; else earlier "$@"; fi ;;
	0) echo "ok, $seconds s$([ "$skipped" = 0 ] || echo ", $skipped skipped")${release:+: $release}" ;;
	*) echo "**failed**, $seconds s" ;;
	esac
}

# earlier prints what the table in $page has for it.
earlier() { # head, check
	awk -F ' *[|] *' -v head="$1" -v check="$2" -v cell=– '
		/^<!-- try-kernels -->$/ { inside = 1 }
		/^<!-- \/try-kernels -->$/ { inside = 0 }
		inside && $2 == "" { for (i = 3; i < NF; i++) if ($i == head) column = i }
		inside && $2 == check && column { cell = $column }
		END { print cell }' $page
}

# table prints the results as Markdown.
table() {
	local check head
	printf '|'
	printf ' | %s' "${heads[@]}"
	printf ' |\n|---|%s\n' "$(printf -- '---|%.0s' "${heads[@]}")"
	for check in $checks; do
		printf '| %s' "$check"
		for head in "${heads[@]}"; do printf ' | %s' "$(cell "$head" "$check")"; done
		printf ' |\n'
	done
}

# write_table puts the table between the marks in $page.
write_table() {
	[ "$(grep -cE '^<!-- /?try-kernels -->$' $page)" = 2 ] || die "$page has no marks for the table"
	awk -v table="$tmp/table" '
		/^<!-- \/try-kernels -->$/ { skip = 0 }
		!skip { print }
		/^<!-- try-kernels -->$/ { skip = 1; while ((getline line < table) > 0) print line }' $page >"$tmp/page"
	cp "$tmp/page" $page
}

write='' only='' wanted=''
while [ $# -gt 0 ]; do
	case $1 in
	--write) write=1 ;;
	--kernels) only=$2 && shift ;;
	--checks) wanted=$2 && shift ;;
	*) die "unknown argument $1; see the head of this script" ;;
	esac
	shift
done
if [ "$only" = list ]; then
	cut -d'|' -f1 <<<"$kernels" | grep .
	exit
fi
for tool in qemu-system-x86_64 qemu-system-aarch64 cpio apt-get; do
	command -v $tool >/dev/null || die "$tool is missing: apt-get install qemu-system-x86 qemu-system-arm cpio"
done
all=$checks
if [ -n "$wanted" ]; then
	checks="boot ${wanted//,/ }"
	for check in $checks; do [[ " $all " = *" $check "* ]] || die "there is no check $check"; done
fi

failed=0 heads=()
while IFS='|' read -r head suite package parameters; do
	[[ $head =~ ${only:-.} ]] || continue
	try "$head" "$suite" "$package" "$parameters"
	heads+=("$head")
done < <(grep . <<<"$kernels")
[ ${#heads[@]} -gt 0 ] || die "no kernel matches $only"
if [ -n "$write" ]; then
	checks=$all
	mapfile -t heads < <(cut -d'|' -f1 <<<"$kernels" | grep .)
fi
table | tee "$tmp/table"
[ -z "$write" ] || write_table
exit $failed
