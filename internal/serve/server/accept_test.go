package server

import (
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a listener whose Accept returns these errors, and a connection for each nil.
type scripted struct {
	net.Listener
	results []error
}

func (l *scripted) Accept() (net.Conn, error) {
	err := l.results[0]
	l.results = l.results[1:]
	if err != nil {
		return nil, err
	}
	conn, _ := net.Pipe()
	return conn, nil
}

// TestAcceptGoesOn checks that a failure of the kernel is reported, and that accepting goes on after a pause that grows
// up to a second, while the listener's end, and an error of another kind, end it.
func TestAcceptGoesOn(t *testing.T) {
	full := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	closed := &net.OpError{Op: "accept", Err: net.ErrClosed}
	synctest.Test(t, func(t *testing.T) {
		l := &scripted{results: slices.Concat([]error{full, full, nil}, slices.Repeat([]error{full}, 10), []error{closed})}
		begun, lines, accepted := time.Now(), 0, 0
		err := acceptAll(l, func(string) { lines++ }, func(c net.Conn) { accepted++ })
		if !errors.Is(err, net.ErrClosed) || lines != 12 || accepted != 1 {
			t.Errorf("%v after %d lines and %d connections; want 12 and 1", err, lines, accepted)
		}
		if got, want := time.Since(begun), (5+10+5+10+20+40+80+160+320+640+1000+1000)*time.Millisecond; got != want {
			t.Errorf("the pauses are %v, want %v", got, want)
		}
		other := errors.New("another")
		if err := acceptAll(&scripted{results: []error{other}}, nil, nil); err != other {
			t.Errorf("%v, want %v", err, other)
		}
	})
}
