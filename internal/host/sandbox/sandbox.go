// Package sandbox irrevocably drops what the process does not need, in two steps. Protect, before the process has a
// secret, keeps other processes from reading its memory. Enforce, before it serves, drops the uid, capabilities, and
// the access to files, ports and system calls.
//
// Protect prevents output only for signals that another process sends. A fault of the program itself still makes the Go
// runtime write all stacks with their arguments, and unless it was an ordinary nil dereference the general registers
// too, to descriptor 2, whatever GOTRACEBACK is. The program must have /dev/null there before it reads a secret.
package sandbox

import (
	"errors"
	"fmt"
	"syscall"
)

// A Policy lists what the process may still do after Enforce. The zero Policy allows serving on what is open, and name
// resolution.
type Policy struct {
	// User is the user that the process becomes, with that user's group and no other; nil keeps the current one. Only
	// root can become another user.
	User *User

	// Ports are the TCP ports to which the process may connect: the upstream's and the CONNECT proxy's. Port 53 is
	// added, for TCP and UDP; 0 is ignored. Addresses are not restricted, since Landlock has no rule for them. UDP is
	// not restricted either before Linux 7.2.
	Ports []uint16

	// Read are files, or directories with everything below them, that the process may read later. The resolver's files
	// are added. Links are resolved by Enforce. Absent files are ignored. Landlock identifies a file by its inode: a
	// file that replaces one of these later cannot be read.
	Read []string

	// Write, Append and Remove are directories, which must exist. They allow, at any depth,
	Write  []string // make, read, rename and remove files, and write at their ends
	Append []string // make files and write at their ends, but neither read, rename nor remove any
	Remove []string // remove files

	// Truncate are descriptors of files that the process may still truncate. seccomp enforces this, because Landlock
	// does not restrict files that were opened before. Before Linux 6.2 a compromised process can open a file of Append
	// under such a number, and truncate it.
	Truncate []int

	// Off omits Landlock and seccomp, so that the process can be debugged. A compromised process then has all of its
	// user's privileges. User, no-new-privs and capabilities are still enforced.
	Off bool
}

// A Protection is one property of the process, as read back from the kernel.
type Protection struct {
	Name    string
	State   string // what is in force; "" if nothing is
	Missing error  // why all or a part of it is missing; nil if nothing is. An errors.ErrUnsupported if the kernel lacks it
}

// whole returns a protection that is either fully in force or missing.
func whole(name, state string, missing error) Protection {
	if missing != nil {
		state = ""
	}
	return Protection{name, state, missing}
}

// A Report lists all protections, in the order in which the start line shows them.
type Report []Protection

// Protect keeps other processes of the same user from reading this one, keeps its memory out of core files, as far as
// the system supports it, and reads each protection back. It must be the first call of main, before any secret is read.
// On an error the caller must stop: a protection that the system offers could not be set, or the process is traced.
//
// From then on, signals for which the Go runtime prints all stacks and registers end the process immediately and
// without output, with the shell's exit code for them: any process of the same user can send those.
func Protect() (Report, error) {
	r, err := protect()
	if err != nil {
		return r, fmt.Errorf("cannot protect the process: %w", withHint(err))
	}
	return r, nil
}

var errOff = errors.New("turned off")

// Enforce puts p in force on all threads of the process. It must be called once, when everything is open that needs a
// file, a listener or a privilege.
//
// On an error the caller must stop: p names something that does not exist or that the process may not grant. A missing
// protection is no error: whether to serve without it is the caller's decision.
func Enforce(p Policy) (Report, error) {
	r, err := enforce(p)
	if err != nil {
		return nil, fmt.Errorf("cannot sandbox the process: %w", withHint(err))
	}
	for i := range r {
		r[i].Missing = withHint(r[i].Missing)
	}
	return r, nil
}

// withHint adds what to do to the error of a system call that lacks a descriptor.
func withHint(err error) error {
	if errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w; raise the limit of open files (ulimit -n)", err)
	}
	return err
}

// A User is a user that the process can become.
type User struct {
	Name     string
	UID, GID int
}
