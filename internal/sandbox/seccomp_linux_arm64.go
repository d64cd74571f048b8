package sandbox

import "golang.org/x/sys/unix"

// auditArch is how seccomp knows this architecture's own system calls.
const auditArch = unix.AUDIT_ARCH_AARCH64
