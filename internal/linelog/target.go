package linelog

import (
	"errors"
	"fmt"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// Target is where lines go. A log closes it; until it has a log, its owner must.
type Target struct {
	file  *os.File
	torn  bool               // it ends within a line, which a line feed must end first
	again *safefile.Appender // opens it again; nil if it is not a regular file
}

// File opens the file at path, as [safefile.OpenAppend] does: a new one is given to owner. It may be a FIFO or a
// device.
func File(path string, owner int) (*Target, error) {
	again, f, torn, err := safefile.OpenAppend(path, owner)
	if _, ok := errors.AsType[*os.PathError](err); ok { // the others say what to do
		err = fmt.Errorf("%w; name a file that you may write to, in a directory that is there", err)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		again.Close()
		again = nil
	}
	return &Target{file: f, torn: torn, again: again}, nil
}

// Standard returns a descriptor of our own for standard output (1) or standard error (2): Go ends a process that writes
// to those when there is no reader. Whether it blocks is left as it is, since others may share it.
func Standard(fd int) (*Target, error) {
	f, err := duplicate(fd)
	return &Target{file: f}, err
}

// Close closes a target that no log has.
func (t *Target) Close() {
	t.file.Close()
	if t.again != nil {
		t.again.Close()
	}
}
