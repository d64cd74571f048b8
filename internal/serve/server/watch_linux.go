package server

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watcher detects that clients leave while their connections are not read: one epoll instance for all connections,
// which waits for hang-ups alone. It costs a connection one system call and a request none. Without it the request of a
// client that has left would go on at the upstream, and be paid for, until the response has something to be written.
//
// Go's own poller cannot be used, since it reports a hang-up only to a reader. A socket may be in both epoll instances
// (epoll(7)).
type watcher struct {
	fd    int // of epoll, which owns it
	epoll *os.File
	left  func(id uint64) // is called when the client of the connection with this number has left
	once  sync.Once       // starts run
}

// newWatcher creates the epoll instance, which must come before the sandbox: that allows epoll_ctl(2) and
// epoll_pwait(2) only. The caller must call close.
func newWatcher(left func(id uint64)) (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	// Non-blocking, os.File lets Go's own poller wait for it: no thread does.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &watcher{fd: fd, epoll: os.NewFile(uintptr(fd), "epoll"), left: left}, nil
}

// add watches c from now on, if it is a socket. A client that half-closes its side counts as one that leaves, as with
// other servers: both send the same FIN. It fails with ENOMEM, or with ENOSPC beyond fs.epoll.max_user_watches
// (epoll_ctl(2)).
func (w *watcher) add(c *conn) error {
	socket, ok := c.nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	w.once.Do(func() { go w.run() })
	// EPOLLRDHUP (Linux 2.6.17) is the peer's FIN; a reset is reported in any case. With EPOLLET each is reported once:
	// the condition lasts, and would otherwise wake run again and again. The event carries the connection's number,
	// because that of the descriptor may belong to another one by the time the event is read. The kernel removes the
	// socket from the epoll instance when its last descriptor is closed (epoll(7), "Questions and answers").
	raw.Control(func(fd uintptr) {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET}
		event.Fd, event.Pad = int32(uint32(c.id)), int32(uint32(c.id>>32))
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
	})
	return err
}

// run calls left for each client that has left, until close. Between events it blocks as a goroutine and not as a
// thread: an epoll instance is readable itself when it has events (epoll(7)), and Go's poller waits for that. x/sys
// makes EpollWait by epoll_pwait(2).
func (w *watcher) run() {
	raw, err := w.epoll.SyscallConn()
	events := make([]unix.EpollEvent, 64)
	for err == nil {
		var n int
		err = raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, e := range events[:max(n, 0)] {
			w.left(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
		}
	}
}

func (w *watcher) close() { w.epoll.Close() }
