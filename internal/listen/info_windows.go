package listen

import "os"

// openInfo has no sticky folders to look out for here.
func openInfo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
}
