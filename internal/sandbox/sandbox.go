// Package sandbox takes from this process everything that it no longer needs once
// it is ready to serve: another user's rights, capabilities, files, ports,
// system calls. Nobody can give it back, the process itself included.
package sandbox

import (
	"errors"
	"fmt"
	"strings"
)

// Policy says what the process must still be able to do.
type Policy struct {
	// User is whom to become for good, by name or number; "" stays. Only root
	// can. A number that /etc/passwd does not know is taken for the group too.
	// The user gets its first group and no other.
	User string

	// Ports are the TCP ports to which the process may connect: the
	// upstream's, the CONNECT proxy's. 53 is added, and 0 is passed over. To which address is not
	// limited, and neither is UDP, for which Landlock has no rule yet.
	Ports []uint16

	// Read are files that it may read later, or folders with all that is in
	// them; none by default. The resolver's files are added, and where their
	// links lead. What is not there is passed over. A file is known by its inode: one that is put in its place
	// later cannot be read.
	Read []string

	// Write are folders in which it may make, read, write, rename and remove
	// files, folders below included; usually none. Each must be there.
	Write []string

	// Append are folders in which it may make files and write to them, but
	// neither read, rename nor remove any; usually none. Each must be there.
	Append []string

	// Remove are folders from which it may remove files, folders below
	// included; usually none. Each must be there.
	Remove []string

	// Truncate are descriptors of files that it may still empty; none by
	// default. Landlock does not hold for what was opened before.
	Truncate []int

	// SetFlags are descriptors whose flags it may still change; none by default:
	// it could make a file for appending one to write anywhere.
	SetFlags []int

	// Off leaves Landlock and seccomp out, so that the process can be
	// debugged; then code that gets to run inside it can do what its user can.
	// The user, no-new-privs and the capabilities are seen to all the same.
	Off bool

	// Strict makes it an error if any protection is missing. The caller must
	// exit then: what is in force by then stays so.
	Strict bool
}

// A protection is one line of defence.
type protection struct {
	name  string
	state string // what is in force; "" if nothing is
	why   string // why it, or a part of it, is missing; "" if none is
}

// Report says what is in force, as read back from the kernel, and what is
// missing and why.
type Report struct {
	all []protection
}

// add adds a protection that is in force as a whole or not at all.
func (r *Report) add(name, state string, missing error) {
	if missing != nil {
		state = ""
	}
	r.addPart(name, state, missing)
}

// addPart adds one of which a part may be missing.
func (r *Report) addPart(name, state string, missing error) {
	p := protection{name: name, state: state}
	if missing != nil {
		p.why = missing.Error()
	}
	r.all = append(r.all, p)
}

// String is one line, such as
//
//	user=nobody caps=none no-new-privs=on landlock=abi7 seccomp=on
//
// where a reason in parentheses follows what is missing.
func (r *Report) String() string {
	var words []string
	for _, p := range r.all {
		word := p.name + "=" + p.state
		if p.state == "" {
			word += "missing"
		}
		if p.why != "" {
			word += "(" + p.why + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// Each calls each for every protection, in the order of String.
func (r *Report) Each(each func(name, state string, missing bool)) {
	for _, p := range r.all {
		each(p.name, p.state, p.why != "")
	}
}

// Missing names each protection that is not wholly in force, with the reason.
func (r *Report) Missing() []string {
	var names []string
	for _, p := range r.all {
		if p.why != "" {
			names = append(names, p.name+": "+p.why)
		}
	}
	return names
}

var errOff = errors.New("turned off")

// Enforce puts the policy in force on all threads of the process. It must be called once,
// when everything is open that needs a file, a listener or a privilege.
//
// An error means that the caller must stop: Policy asks for what cannot be, or
// for what the user who starts this may not, or a protection is missing in
// spite of Strict.
func Enforce(p Policy) (*Report, error) {
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
