package listen

import (
	"bytes"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/safefile"
)

const cannotWrite = "cannot write --server-info: %w; name a writable file"

// Info is the server-info file, which names the port on which the proxy listens. It is opened before the sandbox, under
// which the process can write to it but could not open it.
type Info struct {
	path string
	file *os.File // for writing
	read *os.File // for reading; nil if the file is not readable
	line []byte   // the content that Write wrote, by which Remove recognizes it
}

// PrepareInfo opens path for writing and truncates it; see [safefile.OpenInPlace] for the checks. It creates missing
// directories. The file's directory need not be writable if the file exists, so that root can prepare the file for an
// unprivileged proxy.
func PrepareInfo(path string) (*Info, error) {
	file, read, err := safefile.OpenInPlace(path)
	if err != nil {
		return nil, fmt.Errorf(cannotWrite, err)
	}
	return &Info{path: path, file: file, read: read}, nil
}

// Write writes {"port":N,"pid":N} and a line feed in place by one write(2), so that a reader that polls the file finds
// it empty or complete. A rename of a temporary file would need the right to write to the directory. It needs only the
// open descriptor, so it works in the sandbox. It must be called at most once.
func (i *Info) Write(port, pid int) error {
	i.line = fmt.Appendf(nil, "{\"port\":%d,\"pid\":%d}\n", port, pid)
	if _, err := i.file.Write(i.line); err != nil {
		return fmt.Errorf(cannotWrite, err)
	}
	return nil
}

// FD is the descriptor that Remove may truncate, for the sandbox's policy.
func (i *Info) FD() int { return int(i.file.Fd()) }

// Remove removes the file, or truncates it if its directory is not writable, and closes it. It does neither if path is
// another file by now, or if another process has written to the file. A stale file would direct clients to a port that
// any user may have bound since.
func (i *Info) Remove() {
	defer i.file.Close()
	defer i.read.Close()
	// One byte more than was written, so that a longer content is noticed.
	text := make([]byte, len(i.line)+1)
	n, _ := i.read.ReadAt(text, 0)
	// Another process may have written its own port into the file, or replaced it, since Write. The descriptor shows
	// the opened file's content; only device and inode show whether the path still leads to it (os.SameFile).
	ours, err := i.read.Stat() // an error if i.read is nil
	if err != nil || !bytes.Equal(text[:n], i.line) {
		return
	}
	there, err := os.Lstat(i.path)
	if err == nil && os.SameFile(ours, there) && os.Remove(i.path) == nil {
		return
	}
	// Best effort, since the proxy is stopping. The sandbox allows ftruncate(2) on this descriptor only (FD).
	i.file.Truncate(0)
}
