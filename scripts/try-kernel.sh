#!/usr/bin/env bash
# Runs the tests of internal/sandbox on another kernel, because Landlock's
# restrictions depend on its version. The kernel runs in an emulator, with only
# the tests, busybox and five files in /etc.
#
#	try-kernel.sh VMLINUZ [-test.FLAG]...
#
# It needs qemu-system-x86_64, cpio and a static busybox. A kernel is in Debian's
# linux-image packages, which need not be installed: apt-get download, dpkg-deb -x.
set -euo pipefail
kernel=$(realpath "$1"); shift
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
args=$(printf " %q" "$@")

mkdir -p "$root"/{bin,dev,etc,proc,tmp}
CGO_ENABLED=0 go test -c -o "$root/sandbox.test" ./internal/sandbox
cp "$(command -v busybox)" "$root/bin/busybox"
printf 'root:x:0:0::/:\nnobody:x:65534:65534::/:\n' >"$root/etc/passwd"
printf 'root:*:\n' >"$root/etc/shadow"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
printf 'nameserver 127.0.0.1\n' >"$root/etc/resolv.conf"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
cat >"$root/init" <<END
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs -o mode=1777 tmp /tmp
/bin/busybox ip link set lo up
echo "Linux \$(/bin/busybox uname -r)"
CI=true /sandbox.test -test.v -test.timeout 5m$args 2>&1
echo "exit code \$?"
/bin/busybox poweroff -f
END
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) >"$tmp/initrd"

timeout 600 qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 1024 -nographic -no-reboot \
	-kernel "$kernel" -initrd "$tmp/initrd" -append "console=ttyS0 quiet panic=-1" </dev/null | tee "$tmp/out"
grep -q '^exit code 0' "$tmp/out"
