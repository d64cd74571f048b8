package dump

import (
	"errors"
	"fmt"
	"os"
)

// folder is the open folder. Every name is looked up in it: it is found where
// it was even if it is moved.
type folder struct {
	root *os.Root
	dir  *os.File // the same; holds the lock
}

// openFolder makes the folder if it is not there, and judges it once it is
// open, so that nobody can put another in its place in between.
func openFolder(path string, owner int) (*folder, error) {
	if err := makeFolder(path, owner); err != nil {
		return nil, fmt.Errorf("cannot make the dump folder: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the dump folder: %w", err)
	}
	f := &folder{root: root}
	if f.dir, err = root.Open("."); err == nil {
		err = judge(f.dir, owner)
	}
	if err == nil {
		err = lock(f.dir)
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("cannot use the dump folder %s: %w", path, err)
	}
	return f, nil
}

var errLocked = errors.New("another process uses it; name another folder")

func (f *folder) close() {
	if f.dir != nil {
		f.dir.Close()
	}
	f.root.Close()
}
