//go:build unix && !linux

package listen

import (
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// umaskLock prevents concurrent calls from restoring each other's umask: there is no call that reads it without setting
// it (umask(2)).
var umaskLock sync.Mutex

// listenNarrow creates a socket file with mode 0600, by umask(2). The umask belongs to the process, so a file that
// another goroutine creates at the same time may get a narrower mode than it should, never a wider one.
func listenNarrow(path string) (*net.UnixListener, error) {
	umaskLock.Lock()
	defer umaskLock.Unlock()
	defer unix.Umask(unix.Umask(0o177))
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}
