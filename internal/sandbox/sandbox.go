// Package sandbox takes from this process, in two steps, what it does not need: Protect, before the process has a
// secret, keeps other processes from reading its memory; Enforce, before it serves, gives up another user's rights,
// capabilities, files, ports and system calls. Neither can be undone, by the process itself least of all.
//
// A signal that another process sends prints nothing. A fault of the program itself is not prevented from that here: the
// Go runtime then writes all stacks with their arguments, and unless it was an ordinary nil dereference the general
// registers too, to descriptor 2, whatever GOTRACEBACK is. The program must have /dev/null there before it reads a
// secret.
package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// A Policy lists what the process may still do once it is in force. The zero Policy allows serving on what is open, and
// looking up names.
type Policy struct {
	// User is the user that the process becomes, with its group and no other; nil leaves it. Only root can become
	// another user.
	User *User

	// Ports are the TCP ports to which the process may connect: the upstream's, the CONNECT proxy's. 53 is added, for
	// TCP and UDP, and 0 is ignored. The addresses are not limited; nor is UDP by a kernel whose Landlock has no rule
	// for it (before Linux 7.2).
	Ports []uint16

	// Read are files that it may read later, or directories with all that is in them. The resolver's files are added.
	// Links are followed now. What is absent is ignored. A file is identified by its inode: one that takes its place
	// later cannot be read.
	Read []string

	// Directories, each of which must be there, in which it may, at any depth,
	Write  []string // make, read, write, rename and remove files
	Append []string // make files and write to them, but neither read, rename nor remove any
	Remove []string // remove files

	// Truncate are descriptors of files that it may still truncate. Landlock does not restrict files that were opened
	// before.
	Truncate []int

	// SetFlags are descriptors whose flags it may still change. It could make a file that is open for appending one to
	// write anywhere.
	SetFlags []int

	// Off leaves Landlock and seccomp out, so that the process can be debugged. Code that gets to run inside it then has
	// all rights of its user. User, no-new-privs and capabilities are dealt with all the same.
	Off bool

	// Strict makes it an error if any protection is missing. What is in force by then stays in force.
	Strict bool
}

// A Protection is one property of the process, as read back from the kernel.
type Protection struct {
	Name    string
	State   string // what is in force; "" if nothing is
	Missing error  // why it, or a part of it, is missing; nil if nothing is
}

// whole returns a protection that is in force as a whole or not at all.
func whole(name, state string, missing error) Protection {
	if missing != nil {
		state = ""
	}
	return Protection{name, state, missing}
}

// A Report lists all protections.
type Report []Protection

// String returns one line, such as
//
//	user=nobody caps=none no-new-privs=on landlock=abi7 seccomp=on
//
// where a reason in parentheses follows what is missing.
func (r Report) String() string {
	var words []string
	for _, p := range r {
		word := p.Name + "=" + cmp.Or(p.State, "missing")
		if p.Missing != nil {
			word += "(" + p.Missing.Error() + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// Missing names each protection that is not wholly in force, with the reason.
func (r Report) Missing() []string {
	var names []string
	for _, p := range r {
		if p.Missing != nil {
			names = append(names, p.Name+": "+p.Missing.Error())
		}
	}
	return names
}

// Protect keeps other processes of the same user from reading this one, and keeps its memory out of core files, as far
// as the system can; it reads each protection back. It must be the first thing that main does, before any secret is
// read. An error means that a protection which the system offers could not be set, or that the process is being traced;
// the caller must stop.
//
// From then on the signals for which Go prints all stacks and registers end the process at once and in silence, with
// the shell's exit code for them: any process of the same user can send those.
func Protect() (Report, error) {
	r, err := protect()
	if err != nil {
		return r, fmt.Errorf("cannot protect the process: %w", err)
	}
	return r, nil
}

var errOff = errors.New("turned off")

// Enforce puts a policy in force on all threads of the process. It must be called once, when everything is open that
// needs a file, a listener or a privilege.
//
// An error means that the caller must stop: the policy names what is absent or what the process may not give, or a
// protection is missing in spite of Strict.
func Enforce(p Policy) (Report, error) {
	if p.Off && p.Strict {
		return nil, errors.New("cannot be strict with the jail turned off; choose one")
	}
	r, err := enforce(p)
	if err != nil {
		return nil, fmt.Errorf("cannot enter the jail: %w", err)
	}
	if missing := r.Missing(); p.Strict && len(missing) > 0 {
		return r, fmt.Errorf("a protection is missing: %s; without --strict the proxy does with what there is", strings.Join(missing, "; "))
	}
	return r, nil
}

// A User is a user that the process can become.
type User struct {
	Name     string
	UID, GID int
}

// LookupUser finds a user other than root by name or number. A number that /etc/passwd does not list is taken for the
// group's as well.
func LookupUser(name string) (*User, error) {
	find := user.Lookup
	id, notNumber := parseID(name)
	if notNumber == nil {
		find, name = user.LookupId, strconv.Itoa(id)
	}
	u := &User{name, id, id}
	if found, err := find(name); err == nil {
		uid, err := parseID(found.Uid)
		gid, err2 := parseID(found.Gid)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("user %q has no proper numbers in /etc/passwd: %w", name, err)
		}
		u = &User{found.Username, uid, gid}
	} else if notNumber != nil {
		return nil, fmt.Errorf("there is no user %q; name one of /etc/passwd, or give a number", name)
	}
	if u.UID == 0 {
		return nil, fmt.Errorf("user %s is root; name a user without privileges", name)
	}
	return u, nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t) -1 means "leave as it is" (setresuid(2))
	}
	return int(n), err
}
