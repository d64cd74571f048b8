//go:build unix && !linux

package listen

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// umaskLock keeps two calls from restoring each other's umask.
var umaskLock sync.Mutex

// listenNarrow makes a socket that is born with mode 0600, which takes the umask
// here. It is the whole process's, so a file that another goroutine makes at the
// same moment has a narrower mode than it should, never a wider one.
func listenNarrow(path string) (*net.UnixListener, error) {
	umaskLock.Lock()
	defer umaskLock.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}
