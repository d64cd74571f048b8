// Package safefile opens, locks and replaces files by name where other users may have a say about the name.
//
// A path is walked one name at a time, each name looked up in an open directory, so that every link and directory on it
// is checked before it is relied upon. What is opened is checked by its descriptor. A [Dir] stays open: the file is found
// where it was even if the directory is renamed, and a sandboxed process needs no other name.
//
// # What is trusted
//
// Root, the effective user and, for files, the users that the caller names as owners (the one that the process is about
// to become). A directory is shared if others may write to it: its mode says so, sticky or not, or it belongs to anybody
// but root and the effective user. This is the table of policies:
//
//	policy   for                    owner of a regular file  mode must not have  type          directories on the path
//	InPlace  --server-info          any                      (any mode)          any           any
//	Log      --audit, --log-file    trusted                  022                 any           any
//	Private  --budget-file, locks   trusted                  077                 regular file  any
//	         unix sockets           (no file)                                                  [Trusted]
//
// Under every policy, in a shared directory:
//   - a link on the path, or a file of any type, must belong to a trusted user or to the directory's owner (the rule of
//     protected_symlinks and protected_regular in proc_sys_fs(5), which are not switched on everywhere);
//   - a regular file must have one hard link: another one may be anywhere (protected_hardlinks).
//
// A link in the place of the file itself is followed for InPlace, and refused otherwise. With [Trusted] directories,
// each must belong to root or the effective user, and if others may write to it, it must be sticky; each link must belong
// to root or the effective user.
//
// With [OpenPrivate] the directory itself must belong to its owner alone (--dump-dir).
//
// # Use
//
// [OpenAppend] opens a log and opens it again after a rotation, [OpenStore] locks a file that is replaced as a whole, and
// [OpenInPlace] a file that is written once. [OpenDir] and [Dir.Lock] are for what is none of these. Outside of Unix only
// the types are checked: who may write to a file is left to its access list.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrLocked means that another process, or another lock of this one, has the file.
var ErrLocked = errors.New("another process uses it")

// Policy says which files are trusted; see the table.
type Policy struct {
	anyOwner bool
	forbid   fs.FileMode
	regular  bool
}

// The policies.
var (
	InPlace = Policy{anyOwner: true}
	Log     = Policy{forbid: 0o022}
	Private = Policy{forbid: 0o077, regular: true}
)

// Walk says how a path is walked. The zero value takes any directory, and no other than those that are there.
type Walk struct {
	// Trusted refuses directories and links through which others could replace what is there.
	Trusted bool
	// Make is the mode, less the umask, with which missing directories are made, and Owner the uid that they are given
	// to, unless that is -1; they are not made if Make is 0.
	Make  uint32
	Owner int
	// Follow follows links in the place of the last name, too.
	Follow bool
	// Owners are users whose files are trusted in the directory, besides root's and our own.
	Owners []uint32
}

// Create makes the file name, which must not be there, with mode 0600, and opens it for writing.
func (d *Dir) Create(name string) (*os.File, error) {
	return d.open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600, InPlace)
}

// List returns all that is in the directory.
func (d *Dir) List() ([]fs.DirEntry, error) {
	f, err := d.open(".", os.O_RDONLY, 0, InPlace)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// nameError is an error that says what to do; it hides the system's words.
type nameError struct {
	text string
	err  error
}

func refuse(err error, format string, args ...any) error {
	return &nameError{fmt.Sprintf(format, args...), err}
}

func (e *nameError) Error() string { return e.text }
func (e *nameError) Unwrap() error { return e.err }

// Appender is a file that is appended to, and opened again by its name when something has renamed it.
type Appender struct {
	dir   *Dir
	name  string
	owner int
}

// OpenAppend opens the file at path at its end, under the policy Log. A new one is made with mode 0600 and given to
// owner, a uid, unless that is -1; owner is trusted. A FIFO is opened without waiting for a reader. torn reports
// whether the file ends within a line; one that cannot be read counts as whole.
func OpenAppend(path string, owner int) (a *Appender, f *os.File, torn bool, err error) {
	var owners []uint32
	if owner >= 0 {
		owners = []uint32{uint32(owner)}
	}
	a = &Appender{owner: owner}
	if a.dir, a.name, err = Parent(path, Walk{Owners: owners}); err != nil {
		return nil, nil, false, err
	}
	if f, err = a.open(); err != nil {
		a.dir.Close()
		return nil, nil, false, err
	}
	return a, f, a.endsTorn(f), nil
}

// endsTorn reports whether f ends without a line feed.
func (a *Appender) endsTorn(f *os.File) bool {
	read, info := a.dir.openAgain(a.name, f)
	if read == nil {
		return false
	}
	defer read.Close()
	var last [1]byte
	n, _ := read.ReadAt(last[:], max(info.Size()-1, 0))
	return n == 1 && last[0] != '\n'
}

// Close closes the directory, not the files that were opened.
func (a *Appender) Close() error { return a.dir.Close() }

// Store is a file that is replaced as a whole, under the policy Private. While it is open no other process can open it
// as a Store. It needs to make, write and remove files in its directory, and nothing else.
type Store struct {
	dir  *Dir
	lock *os.File
	sync *os.File // the directory again, to be synced
	name string
	temp string
}

// OpenStore locks the file at path by a file beside it, .NAME.lock, which stays there. owners are trusted. It returns
// [ErrLocked] if another process has it. The file itself may be missing.
func OpenStore(path string, owners ...uint32) (*Store, error) {
	dir, name, err := Parent(path, Walk{Owners: owners})
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, name: name, temp: "." + name + ".tmp"}
	if s.sync, err = dir.open(".", os.O_RDONLY, 0, InPlace); err == nil {
		s.lock, err = dir.Lock("." + name + ".lock")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close unlocks the file.
func (s *Store) Close() error {
	err := s.dir.Close()
	for _, f := range []*os.File{s.sync, s.lock} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Read returns the file's content. The error is fs.ErrNotExist if there is no file.
func (s *Store) Read() ([]byte, error) {
	f, err := s.dir.open(s.name, os.O_RDONLY, 0, Private)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Write replaces the file: a reader, after a crash too, finds the old text or the new one.
func (s *Store) Write(text []byte) error {
	err := s.writeTemp(text)
	if err == nil {
		err = s.dir.Rename(s.temp, s.name)
	}
	if err == nil {
		err = syncDir(s.sync)
	}
	return err
}

// writeTemp makes the next file. What a crash has left of the last one is removed; no other process writes it, since we
// hold the lock.
func (s *Store) writeTemp(text []byte) error {
	if err := s.dir.Remove(s.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.dir.Create(s.temp)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
