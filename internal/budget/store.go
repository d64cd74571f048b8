package budget

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// store is the file and its folder. The folder stays open, and every name is
// looked up in it: the file is found where it was even if the folder is moved,
// and a process that may use this one folder only can still write it. For that
// it must be allowed to make, write and remove files there.
type store struct {
	root *os.Root
	dir  *os.File // the same folder, to be synced
	lock *os.File // held while we use the file
	path string   // as the user gave it, for messages
	name string
	temp string
	also []uint32 // further users whose file it may be
}

// openStore opens the folder and makes sure that no other process uses the file.
func openStore(path string) (*store, error) {
	folder, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return nil, fmt.Errorf("the budget file %q is a folder; name a file", path)
	}
	if folder == "" {
		folder = "."
	}
	s := &store{path: path, name: name, temp: "." + name + ".tmp"}
	var err error
	if s.root, err = os.OpenRoot(folder); err != nil {
		return nil, fmt.Errorf("cannot open the budget file's folder: %w; it must be there, and be readable and writable", err)
	}
	if s.dir, err = s.root.Open("."); err == nil {
		err = s.takeLock("." + name + ".lock")
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *store) takeLock(name string) (err error) {
	if err := s.checkNoLink(name); err != nil {
		return err
	}
	s.lock, err = s.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the budget file %s: %w; the folder must be writable", s.path, err)
	}
	switch err := lockFile(s.lock); {
	case errors.Is(err, errLocked):
		return fmt.Errorf("the budget file %s is in use by another process; stop that, or name another file", s.path)
	case err != nil:
		return fmt.Errorf("cannot lock the budget file %s: %w", s.path, err)
	}
	return nil
}

// checkNoLink refuses what is not a plain file, if it is there: a link could
// lead to a file that somebody else chose.
func (s *store) checkNoLink(name string) error {
	switch info, err := s.root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot look at the budget file: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file; remove it, or name another", filepath.Join(filepath.Dir(s.path), name))
	}
	return nil
}

// load reads the file. A file that is not there is an empty book.
func (s *store) load() (map[uint32]int64, error) {
	if err := s.checkNoLink(s.name); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(s.name, os.O_RDONLY|nonblock, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return map[uint32]int64{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the budget file %s: %w", s.path, err)
	}
	defer f.Close()
	if err := s.judge(f); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read the budget file %s: %w", s.path, err)
	}
	spent, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("the budget file %s is malformed: %w; mend it, or remove it to start from nothing", s.path, err)
	}
	return spent, nil
}

// judge refuses a file that others can change or read, or could have written.
func (s *store) judge(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot look at the budget file %s: %w", s.path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the budget file %s is not a regular file; name another", s.path)
	}
	if err := judgeOwner(info, s.also); err != nil {
		return fmt.Errorf("the budget file %s %w", s.path, err)
	}
	return nil
}

// save replaces the file as a whole: whoever reads it, after a crash too, finds
// the old text or the new one.
func (s *store) save(text []byte) error {
	err := s.writeTemp(text)
	if err == nil {
		err = s.root.Rename(s.temp, s.name)
	}
	if err == nil {
		err = syncFolder(s.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot write the budget file %s: %w", s.path, err)
	}
	return nil
}

// writeTemp makes the next file. What a crash has left of the last one goes
// first; nobody else writes it, since we hold the lock.
func (s *store) writeTemp(text []byte) error {
	if err := s.root.Remove(s.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.root.OpenFile(s.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *store) close() error {
	var all error
	for _, f := range []*os.File{s.dir, s.lock} {
		if f != nil {
			all = errors.Join(all, f.Close())
		}
	}
	return errors.Join(all, s.root.Close())
}
