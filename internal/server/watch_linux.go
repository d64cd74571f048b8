package server

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watcher detects that clients leave while their connections are not read: one epoll instance for all connections,
// which waits for hang-ups alone. It costs a connection one system call and a request none.
type watcher struct {
	fd    int // of epoll, which owns it
	epoll *os.File
	once  sync.Once // starts run

	mu    sync.Mutex
	next  uint64
	conns map[uint64]*conn
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	// Non-blocking, os.File lets Go's own poller wait for it: no thread does.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &watcher{fd: fd, epoll: os.NewFile(uintptr(fd), "epoll"), conns: map[uint64]*conn{}}, nil
}

// add watches c from now on, if it is a socket. A client that half-closes its side counts as one that leaves, as with
// other servers: both send the same FIN.
func (w *watcher) add(c *conn) {
	socket, ok := c.nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	w.once.Do(func() { go w.run() })
	w.mu.Lock()
	w.next++
	c.watch = w.next
	w.conns[c.watch] = c
	w.mu.Unlock()
	raw.Control(func(fd uintptr) {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET}
		event.Fd, event.Pad = int32(uint32(c.watch)), int32(uint32(c.watch>>32))
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
	})
	if err != nil { // out of memory: give this connection up
		c.forceClose()
	}
}

// remove forgets c. The kernel does when its socket is closed.
func (w *watcher) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c.watch)
}

// run cancels the requests of clients that have left, until close.
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

func (w *watcher) left(id uint64) {
	w.mu.Lock()
	c := w.conns[id]
	w.mu.Unlock()
	if c != nil {
		c.ctx.cancel()
	}
}

func (w *watcher) close() { w.epoll.Close() }
