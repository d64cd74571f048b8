package peer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The compiler holds x/sys to the headers of XNU, since no test here runs on macOS: an index out of range is an error.
var (
	_ = [1]int{}[unix.SOL_LOCAL-0]                // sys/un.h
	_ = [1]int{}[unix.LOCAL_PEERCRED-1]           // sys/un.h
	_ = [1]int{}[unix.LOCAL_PEERPID-2]            // sys/un.h
	_ = [1]int{}[len(unix.Xucred{}.Groups)-16]    // NGROUPS_MAX in sys/syslimits.h
	_ = [1]int{}[unsafe.Sizeof(unix.Xucred{})-76] // struct xucred in sys/ucred.h
	_ = [1]int{}[unsafe.Offsetof(unix.Xucred{}.Uid)-4]
	_ = [1]int{}[unsafe.Offsetof(unix.Xucred{}.Ngroups)-8]
	_ = [1]int{}[unsafe.Offsetof(unix.Xucred{}.Groups)-12]
)
