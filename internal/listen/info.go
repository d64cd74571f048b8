package listen

import (
	"bytes"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

const cannotWrite = "cannot write --server-info: %w; name a file that you may write to"

// Info is the file that names the port on which the proxy listens.
type Info struct {
	path string
	file *os.File // for writing
	read *os.File // the same; nil if it cannot be read
	line []byte   // what was written
}

// PrepareInfo opens path and empties it; see [safefile.OpenInPlace] for what it trusts. Missing directories are made.
// The file's directory need not be writable if the file is there.
func PrepareInfo(path string) (*Info, error) {
	file, read, err := safefile.OpenInPlace(path)
	if err != nil {
		return nil, fmt.Errorf(cannotWrite, err)
	}
	return &Info{path: path, file: file, read: read}, nil
}

// Write writes {"port":N,"pid":N} and a line feed, in place and in one write, so that a reader sees either nothing or
// all of it. It needs nothing but the open file, and must be called once at most.
func (i *Info) Write(port, pid int) error {
	i.line = fmt.Appendf(nil, "{\"port\":%d,\"pid\":%d}\n", port, pid)
	if _, err := i.file.Write(i.line); err != nil {
		return fmt.Errorf(cannotWrite, err)
	}
	return nil
}

// FD is the descriptor that Remove may empty the file by.
func (i *Info) FD() int { return int(i.file.Fd()) }

// Remove removes the file, or empties it if it cannot be removed, unless it is another one by now or another process
// has written to it: a stale one sends clients to a port that may be anybody's. It closes the file.
func (i *Info) Remove() {
	defer i.file.Close()
	if i.read == nil {
		return
	}
	defer i.read.Close()
	text := make([]byte, len(i.line)+1)
	n, _ := i.read.ReadAt(text, 0)
	ours, err := i.read.Stat()
	if err != nil || !bytes.Equal(text[:n], i.line) {
		return
	}
	there, err := os.Lstat(i.path)
	if err == nil && os.SameFile(ours, there) && os.Remove(i.path) == nil {
		return
	}
	i.file.Truncate(0) // best effort, as all of this
}
