package listen

import (
	"bytes"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// Info is the file that names the port on which the proxy listens.
type Info struct {
	path string
	file *os.File // for writing
	read *os.File // the same; nil if it cannot be read
	line []byte   // what was written
}

// WriteInfo writes the file and leaves it there.
func WriteInfo(path string, port, pid int) error {
	i, err := PrepareInfo(path)
	if err != nil {
		return err
	}
	defer i.close()
	return i.Write(port, pid)
}

func (i *Info) close() {
	i.file.Close()
	if i.read != nil {
		i.read.Close()
	}
}

// PrepareInfo opens path and empties it; see [safefile.OpenInPlace] for what it trusts. Missing directories are made.
// The file's directory need not be writable if the file is there.
func PrepareInfo(path string) (*Info, error) {
	i := &Info{path: path}
	var err error
	if i.file, i.read, err = safefile.OpenInPlace(path); err != nil {
		return nil, infoError(err)
	}
	return i, nil
}

// Write writes {"port":N,"pid":N} and a line feed, in place and in one write, so that a reader sees either nothing or
// all of it. It needs nothing but the open file, and must be called once at most.
func (i *Info) Write(port, pid int) error {
	i.line = fmt.Appendf(nil, "{\"port\":%d,\"pid\":%d}\n", port, pid)
	_, err := i.file.Write(i.line)
	return infoError(err)
}

// FD is the descriptor that Remove may empty the file by; -1 of a nil Info.
func (i *Info) FD() int {
	if i == nil {
		return -1
	}
	return int(i.file.Fd())
}

// Remove removes the file, or empties it if it cannot be removed, unless it is another one by now or another process
// has written to it: a stale one sends clients to a port that may be anybody's. It closes the file. A nil Info does
// nothing.
func (i *Info) Remove() {
	if i == nil {
		return
	}
	defer i.close()
	if i.read == nil {
		return
	}
	text := make([]byte, len(i.line)+1)
	n, _ := i.read.ReadAt(text, 0)
	if !bytes.Equal(text[:n], i.line) {
		return
	}
	ours, err := i.read.Stat()
	if err != nil {
		return
	}
	there, err := os.Lstat(i.path)
	if err == nil && os.SameFile(ours, there) && os.Remove(i.path) == nil {
		return
	}
	i.file.Truncate(0) // best effort, as all of this
}

func infoError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot write --server-info: %w; name a file that you may write to", err)
}
