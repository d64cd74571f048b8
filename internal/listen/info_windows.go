package listen

import (
	"os"
	"path/filepath"
)

// openInfo has no sticky folders to look out for here.
func openInfo(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
}
