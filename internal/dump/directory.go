package dump

import (
	"errors"
	"fmt"
	"os"
)

// directory is the open directory. Every name is looked up in it: it is found where it was even if it is moved.
type directory struct {
	root *os.Root
	file *os.File // the same; holds the lock
}

var errLocked = errors.New("another process uses it; name another directory")

// openDirectory makes the directory if it is not there, and checks it once it is open, so that no other can be put in its
// place in between.
func openDirectory(path string, owner int) (*directory, error) {
	if err := makeDirectory(path, owner); err != nil {
		return nil, fmt.Errorf("cannot make the dump directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the dump directory: %w", err)
	}
	d := &directory{root: root}
	if d.file, err = root.Open("."); err == nil {
		err = checkOwnership(d.file, owner)
	}
	if err == nil {
		err = lock(d.file)
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("cannot use the dump directory %s: %w", path, err)
	}
	return d, nil
}

func (d *directory) close() {
	if d.file != nil {
		d.file.Close()
	}
	d.root.Close()
}
