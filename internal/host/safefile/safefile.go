// Package safefile opens, locks and replaces files by name in directories that other users may be able to write to.
//
// A path is resolved one element at a time, each looked up in an open directory, so that every link and directory on it
// is checked before it is used. An opened file is checked by its descriptor. A [Dir] stays open: the file is found
// where it was even if the directory is renamed, and a sandboxed process needs no other name.
//
// # What is trusted
//
// Root, the effective user and, for files, the owner that the caller names (the user that the process will become) are
// trusted. A directory is shared if others may write to it: by its mode, sticky or not, or because it belongs
// neither to root nor to the effective user. The policies are:
//
//	policy   for                    owner of a regular file  mode must not have  type          directories on the path
//	inPlace  --server-info          any                      (any mode)          any           any; missing ones are made
//	logged   --audit, --log-file    trusted                  022                 any           any
//	private  --budget-file, locks   trusted                  077                 regular file  any
//	input    --key-file, --config   trusted                  022                 regular file  trusted
//	socket   unix sockets           (no file)                                                  trusted
//	dumps    --dump-dir             any                      (any mode)          any           any; missing ones are made
//
// Under every policy, in a shared directory:
//   - a link on the path, or a file of any type, must belong to a trusted user or to the directory's owner (the rule of
//     protected_symlinks and protected_regular in proc_sys_fs(5), which not every system enables);
//   - a regular file must have one hard link: another user may have linked any file there (protected_hardlinks).
//
// A link in the place of the file itself is followed for inPlace and input, and refused otherwise. A trusted directory
// must belong to a trusted user, and if others may write to it, it must be sticky; each link to it must belong to a
// trusted user. The directory of dumps must belong to its owner alone.
//
// # Use
//
// [OpenAppend] opens a log and opens it again after a rotation, [OpenStore] locks a file that is replaced as a whole,
// [OpenInPlace] a file that is written once, and [FindInput] finds a file that is read again and again. [OpenTrusted],
// [OpenPrivate] and [Dir.Lock] are for other uses. On systems other than Unix only the types are checked: who may write
// to a file is left to its access list.
package safefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// ErrLocked means that another process, or another descriptor of this process, holds the lock.
var ErrLocked = errors.New("another process uses it")

// A policy is a line of the table.
type policy struct {
	anyOwner bool
	forbid   fs.FileMode
	regular  bool
	follow   bool   // open follows a link in the place of the file
	trusted  bool   // directories and links through which another user could replace the file are refused
	makeDirs uint32 // the mode, less the umask, of missing directories, which are created unless it is 0
}

var (
	inPlace = policy{anyOwner: true, makeDirs: 0o755}
	logged  = policy{forbid: 0o022}
	private = policy{forbid: 0o077, regular: true}
	input   = policy{forbid: 0o022, regular: true, follow: true, trusted: true}
	socket  = policy{trusted: true}
	dumps   = policy{anyOwner: true, makeDirs: 0o700}
)

// Create creates the file name, which must not exist, with mode 0600, and opens it for writing.
func (d *Dir) Create(name string) (*os.File, error) {
	return d.open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600, dumps)
}

// Append opens the file name, which must exist, for writing at its end.
func (d *Dir) Append(name string) (*os.File, error) {
	return d.open(name, os.O_WRONLY|os.O_APPEND, 0, dumps)
}

// List returns all entries of the directory.
func (d *Dir) List() ([]fs.DirEntry, error) {
	f, err := d.open(".", os.O_RDONLY, 0, dumps)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// Appender is a file that is appended to, and opened again by its name after a rotation.
type Appender struct {
	dir  *Dir
	name string
}

// OpenAppend opens the file at path for appending, under the policy logged. A new file gets mode 0600 and that owner,
// unless it is -1; owner is trusted. A FIFO is opened without waiting for a reader. torn reports whether the file ends
// without a line feed, after a crash; it is false for a file that is not readable.
func OpenAppend(path string, owner int) (a *Appender, f *os.File, torn bool, err error) {
	a = &Appender{}
	if a.dir, a.name, err = logged.parent(path, owner, false); err != nil {
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

// Close closes the directory, not the opened files.
func (a *Appender) Close() error { return a.dir.Close() }

// InputFile is a file that is read, and opened again by its name when another may have taken its place.
type InputFile struct {
	dir  *Dir
	name string
	dirs []string
}

// FindInput finds the file at path, under the policy input; owner is trusted. The file may be missing, or a link, such
// as Kubernetes replaces when it updates a mounted Secret. The directory of path's last name is kept open, and a link in
// it is followed again by each Open.
func FindInput(path string, owner int) (*InputFile, error) {
	dir, name, err := input.parent(path, owner, false)
	if err != nil {
		return nil, err
	}
	target, _, err := input.parent(path, owner, true)
	if err != nil {
		dir.Close()
		return nil, err
	}
	target.Close()
	return &InputFile{dir, name, []string{dir.path, target.path}}, nil
}

// Open opens the file for reading. It needs no more than that the sandbox lets files in Directories be read.
func (i *InputFile) Open() (*os.File, error) { return i.dir.open(i.name, os.O_RDONLY, 0, input) }

// Directories are that of the file, and the one to which a link in its place has led; they may be the same.
func (i *InputFile) Directories() []string { return i.dirs }

// Close closes the directory, not the files that were opened.
func (i *InputFile) Close() error { return i.dir.Close() }

// Store is a file that is replaced as a whole, under the policy private. Only one Store can have a file open. In the
// sandbox it needs only to create, write, rename and remove files in its directory.
type Store struct {
	dir  *Dir
	lock *os.File
	name string
	temp string
}

// OpenStore locks the file at path by a file beside it, .NAME.lock, which stays there. owner is trusted. It returns
// [ErrLocked] if another process holds the lock. The file itself need not exist.
func OpenStore(path string, owner int) (*Store, error) {
	dir, name, err := private.parent(path, owner, false)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, name: name, temp: "." + name + ".tmp"}
	if err = dir.reopen(); err == nil { // for sync
		s.lock, err = dir.Lock("." + name + ".lock")
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return s, nil
}

// Close releases the lock.
func (s *Store) Close() error { return errors.Join(s.dir.Close(), s.lock.Close()) }

// Read returns the file's content. The error is fs.ErrNotExist if the file does not exist.
func (s *Store) Read() ([]byte, error) {
	f, err := s.dir.open(s.name, os.O_RDONLY, 0, private)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Write replaces the file by rename(2): a reader sees the old text or the new one, even after a crash.
func (s *Store) Write(text []byte) error {
	err := s.writeTemp(text)
	if err == nil {
		err = s.dir.Rename(s.temp, s.name)
	}
	if err == nil {
		err = s.dir.sync()
	}
	return err
}

// writeTemp writes and syncs the temporary file, before the rename: otherwise a crash could leave the new name with no
// content. It removes one that a crash left behind; no other process writes it while the lock is held.
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
