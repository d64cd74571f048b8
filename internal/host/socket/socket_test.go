package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// pair returns the two ends of a connection.
func pair(t *testing.T, network, address string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { c.Close() })
	}
	return a, b
}

// each runs a test with the two ends of TCP, of a unix socket, and of what is no socket.
func each(t *testing.T, test func(t *testing.T, a, b net.Conn)) {
	t.Run("tcp", func(t *testing.T) {
		a, b := pair(t, "tcp", "127.0.0.1:0")
		test(t, a, b)
	})
	t.Run("unix", func(t *testing.T) {
		a, b := pair(t, "unix", filepath.Join(t.TempDir(), "s"))
		test(t, a, b)
	})
	t.Run("pipe", func(t *testing.T) {
		a, b := net.Pipe()
		test(t, a, b)
	})
}

// TestAllArrives checks that every byte arrives once and in order, whatever the kernel takes at a time, and that the end
// is io.EOF.
func TestAllArrives(t *testing.T) {
	each(t, func(t *testing.T, a, b net.Conn) {
		sent := make([]byte, 8<<20)
		for i := range sent {
			sent[i] = byte(i * 7 / 3)
		}
		go func() {
			w := New(a)
			for rest, n := sent, 1; len(rest) > 0; n = n*3 + 1 {
				m, err := w.Write(rest[:min(n, len(rest))])
				if err != nil || m != min(n, len(rest)) {
					t.Errorf("Write: %d, %v", m, err)
				}
				rest = rest[m:]
			}
			a.Close()
		}()
		got, err := io.ReadAll(New(b))
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes arrived of %d: %v", len(got), len(sent), err)
		}
	})
}

// TestNoWakeUpIsLost has many connections pass one byte to and fro.
func TestNoWakeUpIsLost(t *testing.T) {
	each(t, func(t *testing.T, a, b net.Conn) {
		const turns = 20_000
		var wg sync.WaitGroup
		for _, c := range []*Conn{New(a), New(b)} {
			wg.Go(func() {
				var p [1]byte
				for i := range turns {
					if (i%2 == 0) == (c.nc == a) {
						p[0] = byte(i)
						if _, err := c.Write(p[:]); err != nil {
							t.Errorf("turn %d: %v", i, err)
							return
						}
					} else if _, err := c.Read(p[:]); err != nil || p[0] != byte(i) {
						t.Errorf("turn %d: %d, %v", i, p[0], err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestDeadlineAndClose checks that both end a Read and a Write that wait.
func TestDeadlineAndClose(t *testing.T) {
	each(t, func(t *testing.T, a, b net.Conn) {
		c := New(a)
		calls := map[string]func() error{
			"Read": func() error { _, err := c.Read(make([]byte, 1)); return err },
			"Write": func() error {
				for {
					if _, err := c.Write(make([]byte, 1<<20)); err != nil {
						return err
					}
				}
			},
		}
		for name, call := range calls {
			for range 2 { // also without a wait
				a.SetDeadline(time.Now().Add(10 * time.Millisecond))
				if err := call(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s at its deadline: %v", name, err)
				}
			}
			a.SetDeadline(time.Now().Add(time.Minute))
		}
		ended := make(chan error)
		for _, call := range calls {
			go func() { ended <- call() }()
		}
		a.Close()
		for range calls {
			select {
			case err := <-ended:
				if !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("after Close: %v", err)
				}
			case <-proctest.Within(t, time.Minute).Done():
				t.Fatal("timed out waiting for the calls to end after Close")
			}
		}
	})
}

// TestErrors checks that a reset is the error that net.Conn returns.
func TestErrors(t *testing.T) {
	a, b := pair(t, "tcp", "127.0.0.1:0")
	c := New(a)
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	_, err := c.Read(make([]byte, 1))
	op, ok := errors.AsType[*net.OpError](err)
	if !errors.Is(err, syscall.ECONNRESET) || !ok || op.Op != "read" || op.Addr.String() != a.RemoteAddr().String() {
		t.Errorf("Read: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v", err)
	}
}

// TestAllocations checks that neither call allocates.
func TestAllocations(t *testing.T) {
	a, b := pair(t, "tcp", "127.0.0.1:0")
	w, r, p := New(a), New(b), make([]byte, 100)
	n := testing.AllocsPerRun(1000, func() {
		w.Write(p)
		if _, err := io.ReadFull(r, p); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%.2f objects", n)
	}
}

// TestQuiet checks that data and the end of a connection are found, and nothing else.
func TestQuiet(t *testing.T) {
	for name, act := range map[string]func(net.Conn){"data": func(c net.Conn) { c.Write([]byte("x")) }, "end": func(c net.Conn) { c.Close() }} {
		a, b := pair(t, "tcp", "127.0.0.1:0")
		raw, err := a.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		err = raw.Read(func(fd uintptr) (done bool) {
			quiet := Quiet(fd)
			if calls++; calls == 1 {
				act(b)
			}
			if calls == 1 && !quiet {
				t.Errorf("%s: not quiet before", name)
			}
			return !quiet
		})
		if err != nil || calls == 1 {
			t.Errorf("%s: %d calls, %v", name, calls, err)
		}
	}
}
