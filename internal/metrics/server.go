package metrics

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Serve serves those who watch until l is closed, closes their connections then,
// whatever is under way, and returns nil; any other end is an error. h is usually
// [Metrics.Handler].
//
// The server is net/http's: these requests bear no key and wait for nothing, so
// that none of package server's strictness is needed. Every connection serves one
// request, in 15 seconds at most, and at most 16 are open: one more closes the
// oldest. So nobody who asks slowly, or does not read, keeps others out.
func Serve(l net.Listener, h http.Handler) error { return serve(l, newServer(h)) }

func newServer(h http.Handler) *http.Server {
	s := &http.Server{
		Handler:                      h,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  5 * time.Second, // a body that was announced and does not come
		WriteTimeout:                 10 * time.Second,
		MaxHeaderBytes:               8 << 10,
		ErrorLog:                     log.New(io.Discard, "", 0), // what clients do wrong would fill our log
	}
	s.SetKeepAlivesEnabled(false)
	return s
}

func serve(l net.Listener, s *http.Server) error {
	err := s.Serve(&few{Listener: l})
	s.Close() // the connections; the listener is closed already
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// maxConnections is how many may be open.
const maxConnections = 16

// few is a listener that closes its oldest connection rather than have too many,
// or let a new one wait: whoever behaves is done in milliseconds, so the oldest
// is one that does not.
type few struct {
	net.Listener
	mu   sync.Mutex
	open []*counted // the oldest first
}

// counted is a connection that leaves its listener's count when it is closed.
type counted struct {
	net.Conn
	of *few
}

func (f *few) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if oldest := f.overdue(); oldest != nil {
		oldest.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one := &counted{c, f}
	f.open = append(f.open, one)
	return one, nil
}

// overdue returns the connection that has to go before the next; nil if none.
func (f *few) overdue() *counted {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) < maxConnections {
		return nil
	}
	return f.open[0]
}

func (c *counted) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.open = slices.DeleteFunc(c.of.open, func(other *counted) bool { return other == c })
	return c.Conn.Close()
}
