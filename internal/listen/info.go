package listen

import (
	"errors"
	"fmt"
)

// WriteInfo writes {"port":N,"pid":N} and a line feed to path, in place and in
// one write, so that a reader sees either nothing or all of it. Missing folders
// are made. The file's folder need not be writable if the file is there. In
// folders that everybody may write to (sticky, like /tmp) it neither follows a
// link nor fills a file that another user has put there, wherever on the path.
func WriteInfo(path string, port, pid int) error {
	write, err := PrepareInfo(path)
	if err != nil {
		return err
	}
	return write(port, pid)
}

// PrepareInfo is the part of WriteInfo that needs the path. The file is empty
// until write, which may be called once, and needs nothing but the open file.
func PrepareInfo(path string) (write func(port, pid int) error, err error) {
	f, err := openInfo(path)
	if err != nil {
		return nil, infoError(err)
	}
	return func(port, pid int) error {
		_, err := f.Write(fmt.Appendf(nil, "{\"port\":%d,\"pid\":%d}\n", port, pid))
		return infoError(errors.Join(err, f.Close()))
	}, nil
}

func infoError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot write --server-info: %w", err)
}
