package sandbox

import "golang.org/x/sys/unix"

// auditArch is how seccomp knows this architecture's own system calls; x32's
// have it too, but other numbers.
const auditArch = unix.AUDIT_ARCH_X86_64
