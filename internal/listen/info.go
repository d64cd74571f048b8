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
	if err := writeInfo(path, fmt.Appendf(nil, "{\"port\":%d,\"pid\":%d}\n", port, pid)); err != nil {
		return fmt.Errorf("cannot write --server-info: %w", err)
	}
	return nil
}

func writeInfo(path string, line []byte) error {
	f, err := openInfo(path)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}
