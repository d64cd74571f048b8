package listen

import (
	"os"
	"path/filepath"
)

// openInfo has no sticky folders to look out for here.
func openInfo(path string) (file, read *os.File, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, err
	}
	file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err == nil {
		read, _ = os.Open(path) // or it stays behind
	}
	return file, read, err
}
