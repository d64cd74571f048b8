package budget

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// store is the file.
type store struct {
	file *safefile.Store
	path string // as the user gave it, for messages
}

// openStore makes sure that no other process uses the file, and trusts users in also besides root and us.
func openStore(path string, also []uint32) (*store, error) {
	if name := filepath.Base(path); name == "." || name == ".." || path[len(path)-1] == filepath.Separator {
		return nil, fmt.Errorf("the budget file %q is a directory; name a file", path)
	}
	file, err := safefile.OpenStore(path, also...)
	switch {
	case errors.Is(err, safefile.ErrLocked):
		return nil, fmt.Errorf("the budget file %s is in use by another process; stop that, or name another file", path)
	case err != nil:
		return nil, fmt.Errorf("cannot lock the budget file %s: %w; its directory must be there, and be readable and writable", path, err)
	}
	return &store{file, path}, nil
}

// load reads the file. A file that is not there is an empty book.
func (s *store) load() (map[uint32]int64, error) {
	text, err := s.file.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return map[uint32]int64{}, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read the budget file: %w", err)
	}
	spent, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("the budget file %s is malformed: %w; fix it, or remove it to start from nothing", s.path, err)
	}
	return spent, nil
}

// save replaces the file as a whole.
func (s *store) save(text []byte) error {
	if err := s.file.Write(text); err != nil {
		return fmt.Errorf("cannot write the budget file %s: %w", s.path, err)
	}
	return nil
}

func (s *store) close() error { return s.file.Close() }
