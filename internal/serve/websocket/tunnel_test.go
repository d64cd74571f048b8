package websocket

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

// pipe is one of the two connections, in memory: the tunnel's end, and the peer's.
type pipe struct {
	in, out     *io.PipeReader
	toUs, to    *io.PipeWriter
	interrupted bool
}

func newPipe() *pipe {
	p := &pipe{}
	p.in, p.toUs = io.Pipe()
	p.out, p.to = io.Pipe()
	return p
}

func (p *pipe) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.to.Write(b) }
func (p *pipe) CloseWrite() error           { return p.to.Close() }

func (p *pipe) Interrupt() {
	p.interrupted = true
	p.in.Close()
	p.to.CloseWithError(io.ErrClosedPipe)
}

// send sends from the peer.
func (p *pipe) send(b []byte) { go p.toUs.Write(b) }

// expect reads what the peer receives.
func (p *pipe) expect(t *testing.T, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(p.out, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%q, %v, want %q", got, err, want)
	}
}

// ended checks that the peer receives nothing more.
func (p *pipe) ended(t *testing.T) {
	t.Helper()
	if rest, _ := io.ReadAll(p.out); len(rest) > 0 {
		t.Errorf("after the end comes %q", rest)
	}
}

// play runs a tunnel in a synctest bubble, and returns how it ended and how long it took.
func play(t *testing.T, cfg Config, script func(client, upstream *pipe)) (end *apierror.Error, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, upstream := newPipe(), newPipe()
		cfg.Client, cfg.Upstream = client, upstream
		defer client.Interrupt() // also if the script fails
		defer upstream.Interrupt()
		result, begun := make(chan *apierror.Error, 1), time.Now()
		go func() { result <- Run(cfg) }()
		script(client, upstream)
		end = <-result
		took = time.Since(begun)
		if !client.interrupted || !upstream.interrupted {
			t.Error("a side is not interrupted")
		}
	})
	return end, took
}

func codeOf(end *apierror.Error) apierror.Code {
	if end == nil {
		return ""
	}
	return end.Code
}

var (
	clientBye   = made(0x88, 2, true)
	upstreamBye = made(0x88, 2, false)
	going       = closeFrame(false, goingAway, "")
)

// goodbye reads a masked close frame.
func goodbye(t *testing.T, p *pipe) {
	t.Helper()
	got := make([]byte, 8)
	if _, err := io.ReadFull(p.out, got); err != nil || got[0] != 0x88 || got[1] != 0x82 {
		t.Fatalf("%q, %v, want a close frame", got, err)
	}
}

// TestBuffersAreCleared: of what has passed, nothing is left in a buffer that is used again.
func TestBuffersAreCleared(t *testing.T) {
	text := append([]byte{0x81, 6}, "secret"...)
	for range 10 {
		play(t, Config{}, func(c, u *pipe) {
			u.send(text)
			c.expect(t, text)
			c.toUs.Close()
		})
		for range 4 { // as many as may have been returned, and more
			if buf := *buffers.Get().(*[]byte); bytes.Contains(buf, []byte("secret")) {
				t.Fatal("a buffer still has the text")
			}
		}
	}
}

func TestEnds(t *testing.T) {
	hello, reply := made(0x81, 300, true), made(0x81, 5, false)
	for _, c := range []struct {
		what   string
		cfg    Config
		script func(t *testing.T, client, upstream *pipe)
		end    apierror.Code // "" if none
		took   time.Duration
	}{
		{"both say goodbye", Config{}, func(t *testing.T, c, u *pipe) {
			c.send(hello)
			u.expect(t, hello)
			u.send(reply)
			c.expect(t, reply)
			c.send(clientBye)
			u.expect(t, clientBye)
			u.send(upstreamBye)
			c.expect(t, upstreamBye)
			c.ended(t)
			u.ended(t)
		}, "", 0},
		{"the client says goodbye and ends its side, which is passed on", Config{}, func(t *testing.T, c, u *pipe) {
			c.send(clientBye)
			u.expect(t, clientBye)
			c.toUs.Close()
			u.ended(t)
			u.send(reply)
			c.expect(t, reply)
			u.send(upstreamBye)
			c.expect(t, upstreamBye)
		}, "", 0},
		{"the client says goodbye and gets no answer", Config{}, func(t *testing.T, c, u *pipe) {
			c.send(clientBye)
			u.expect(t, clientBye)
			c.ended(t)
		}, "", replyTimeout},
		{"what comes behind a goodbye is for nobody", Config{}, func(t *testing.T, c, u *pipe) {
			u.send(append(bytes.Clone(upstreamBye), reply...))
			c.expect(t, upstreamBye)
			c.ended(t)
			u.ended(t)
		}, "", replyTimeout},
		{"the client leaves", Config{}, func(t *testing.T, c, u *pipe) { c.toUs.Close(); u.ended(t); c.ended(t) }, apierror.ClientLeft, 0},
		{"the client leaves within a frame", Config{}, func(t *testing.T, c, u *pipe) {
			c.send(hello[:9])
			u.expect(t, hello[:9])
			c.toUs.Close()
			u.ended(t)
		}, apierror.ClientLeft, 0},
		{"the upstream leaves", Config{}, func(t *testing.T, c, u *pipe) { u.toUs.Close(); u.ended(t); c.ended(t) }, apierror.UpstreamClosed, 0},
		{"the upstream breaks off", Config{}, func(t *testing.T, c, u *pipe) {
			u.send(reply[:3])
			c.expect(t, reply[:3])
			u.toUs.CloseWithError(io.ErrUnexpectedEOF)
			c.ended(t)
		}, apierror.UpstreamClosed, 0},
		{"the client sends nonsense", Config{}, func(t *testing.T, c, u *pipe) { c.send([]byte("\x08\x00")); u.ended(t); c.ended(t) }, apierror.WebsocketMalformed, 0},
		{"the upstream sends nonsense", Config{}, func(t *testing.T, c, u *pipe) { u.send([]byte("\x89\x7e\x01\x00")); u.ended(t); c.ended(t) }, apierror.UpstreamMalformed, 0},
		{"the client has left, and its bytes cannot be passed on", Config{ClientLeft: closed()}, func(t *testing.T, c, u *pipe) { c.send(hello) }, apierror.ClientLeft, leaveTimeout},

		{"a stop, and both answer", Config{Stop: closed()}, func(t *testing.T, c, u *pipe) {
			c.expect(t, going)
			goodbye(t, u)
			c.send(clientBye)
			u.send(upstreamBye)
			c.ended(t)
			u.ended(t)
		}, "", 0},
		{"a stop, and nobody answers", Config{Stop: closed()}, func(t *testing.T, c, u *pipe) {
			c.expect(t, going)
			goodbye(t, u)
			c.send(hello)
			u.send(reply)
			c.ended(t)
			u.ended(t)
		}, "", replyTimeout},
		{"a stop, and the client just ends", Config{Stop: closed()}, func(t *testing.T, c, u *pipe) {
			c.expect(t, going)
			goodbye(t, u)
			c.toUs.Close()
		}, "", 0},
		{"the deadline", Config{Deadline: time.Date(2000, 1, 1, 0, 0, 7, 0, time.UTC)}, func(t *testing.T, c, u *pipe) {
			c.expect(t, going)
			goodbye(t, u)
			c.send(clientBye)
			u.send(upstreamBye)
		}, "", 7 * time.Second},
		{"a minute without a byte", Config{Idle: time.Minute}, func(t *testing.T, c, u *pipe) {
			c.expect(t, going)
			goodbye(t, u)
		}, "", time.Minute + replyTimeout},
		{"bytes from one side alone keep it open", Config{Idle: time.Minute}, func(t *testing.T, c, u *pipe) {
			for range 10 {
				time.Sleep(50 * time.Second) // of the bubble's clock
				u.send(reply)
				c.expect(t, reply)
			}
			c.expect(t, going)
			goodbye(t, u)
		}, "", 500*time.Second + time.Minute + replyTimeout},
		{"a minute without a byte within a frame", Config{Idle: time.Minute}, func(t *testing.T, c, u *pipe) {
			u.send(reply[:3])
			c.expect(t, reply[:3])
			goodbye(t, u)
			c.ended(t)
		}, "", time.Minute + replyTimeout},
	} {
		t.Run(c.what, func(t *testing.T) {
			end, took := play(t, c.cfg, func(client, upstream *pipe) { c.script(t, client, upstream) })
			if codeOf(end) != c.end || took != c.took {
				t.Errorf("end %q after %v, want %q after %v", codeOf(end), took, c.end, c.took)
			}
		})
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// TestStopWaitsForBoundaries: no close frame is inserted into a frame, however that is split, and no byte of the next
// frame follows.
func TestStopWaitsForBoundaries(t *testing.T) {
	first, second := made(0x01, 200, false), made(0x80, 3, false)
	both := append(bytes.Clone(first), second...)
	for cut := 1; cut < len(first); cut++ {
		// The deadline is reached only when all goroutines block.
		end, _ := play(t, Config{Deadline: time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)}, func(c, u *pipe) {
			u.send(first[:cut])
			c.expect(t, first[:cut])
			goodbye(t, u)
			synctest.Wait() // until the other direction has detected it
			u.send(both[cut:])
			c.expect(t, first[cut:])
			c.expect(t, going)
			c.ended(t)
		})
		if end != nil {
			t.Fatalf("cut at %d: end %+v", cut, end)
		}
	}
}

// FuzzStop: for a stop at any time, a peer receives whole frames, unchanged, then one close frame, and nothing more.
func FuzzStop(f *testing.F) {
	f.Add(uint16(7), uint16(3), uint16(5))
	f.Fuzz(func(t *testing.T, size, cut, piece uint16) {
		sent := append(made(0x81, int(size), false), made(0x82, 5, false)...)
		at := int(cut) % len(sent)
		ends, _ := reference(sent)
		whole := 0
		for i := len(ends) - 1; i >= 0; i-- {
			if ends[i] >= at {
				whole = ends[i]
			}
		}
		if at == 0 {
			whole = 0
		}
		got := &gather{}
		w := &direction{tunnel: &tunnel{}, to: got}
		for p := sent[:at]; len(p) > 0; {
			n := min(len(p), int(piece)+1)
			w.pass(p[:n])
			p = p[n:]
		}
		w.ending.Store(&ending{status: goingAway})
		w.stop()
		w.pass(sent[at:])
		if want := append(bytes.Clone(sent[:whole]), going...); !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%d bytes sent, stopped at %d: %d bytes arrive, want %d", len(sent), at, got.Len(), len(want))
		}
	})
}

type gather struct{ bytes.Buffer }

func (*gather) CloseWrite() error { return nil }
func (*gather) Interrupt()        {}

// text is a frame with a first byte and content.
func text(first byte, content string, masked bool) []byte {
	f := made(first, len(content), masked)
	copy(f[len(f)-len(content):], content)
	return f
}

// TestReads: messages are read whole, whatever pieces they come in, and control frames are not.
func TestReads(t *testing.T) {
	for _, masked := range []bool{true, false} {
		var sent []byte
		for _, f := range []struct {
			first   byte
			content string
		}{{0x01, "he"}, {0x89, "ping"}, {0x00, ""}, {0x80, "llo"}, {0x81, ""}, {0x82, strings.Repeat("x", 300)}, {0x8a, ""}, {0x88, "by"}, {0x81, "late"}} {
			sent = append(sent, text(f.first, f.content, masked)...)
		}
		for piece := 1; piece <= len(sent); piece++ {
			var messages []string
			message := ""
			w := &direction{tunnel: &tunnel{}, to: &gather{}, masked: masked}
			w.read = func(p []byte, last bool) *apierror.Error {
				if message += string(p); last {
					messages, message = append(messages, message), ""
				}
				return nil
			}
			for p := sent; len(p) > 0; p = p[min(len(p), piece):] {
				if err := w.pass(p[:min(len(p), piece)]); err != nil {
					t.Fatal(err)
				}
			}
			if want := []string{"hello", "", strings.Repeat("x", 300)}; !slices.Equal(messages, want) {
				t.Fatalf("in pieces of %d: %q, want %q", piece, messages, want)
			}
		}
	}
}

// TestUnreadable: what cannot be read does not pass where it must be.
func TestUnreadable(t *testing.T) {
	read := func([]byte, bool) *apierror.Error { return nil }
	for what, f := range map[string][]byte{
		"compressed": text(0xc1, "x", false), "another extension": text(0x91, "x", false), "a compressed piece": text(0x40, "x", false), "a mask": text(0x81, "x", true),
	} {
		end, _ := play(t, Config{ReadUpstream: read}, func(c, u *pipe) { u.send(f); c.ended(t) })
		if codeOf(end) != apierror.UpstreamMalformed {
			t.Errorf("%s: end %+v", what, end)
		}
		end, _ = play(t, Config{}, func(c, u *pipe) { u.send(f); c.expect(t, f); c.toUs.Close() })
		if codeOf(end) != apierror.ClientLeft {
			t.Errorf("%s, where nothing is read: end %+v", what, end)
		}
	}
	for what, f := range map[string][]byte{"compressed": text(0xc1, "x", true), "no mask": text(0x81, "x", false)} {
		if end, _ := play(t, Config{ReadClient: read}, func(c, u *pipe) { c.send(f); u.ended(t) }); codeOf(end) != apierror.WebsocketMalformed {
			t.Errorf("%s: end %+v", what, end)
		}
	}
}

// TestRefused: both peers are told, and nothing follows.
func TestRefused(t *testing.T) {
	long := strings.Repeat("r", 200)
	refuse := func(p []byte, last bool) *apierror.Error {
		if last && bytes.HasSuffix(p, []byte("2")) {
			return &apierror.Error{Code: apierror.Code(long)}
		}
		return nil
	}
	first, second, third := text(0x81, "message 1", false), text(0x81, "message 2", false), text(0x81, "message 3", false)
	farewell := text(0x88, "\x03\xf0"+long[:123], false)
	script := func(reply bool) func(c, u *pipe) {
		return func(c, u *pipe) {
			u.send(slices.Concat(first, second, third))
			c.expect(t, slices.Concat(first, second, farewell))
			got := make([]byte, 2+4+125)
			if _, err := io.ReadFull(u.out, got); err != nil || got[0] != 0x88 || got[1] != 0x80|125 || got[6]^got[2] != 0x03 || got[7]^got[3] != 0xf0 || got[8]^got[4] != 'r' {
				t.Errorf("the upstream gets %q, %v", got, err)
			}
			c.send(text(0x81, "more", true))
			if reply {
				c.send(clientBye)
				u.send(upstreamBye)
			}
			c.ended(t)
			u.ended(t)
		}
	}
	for _, reply := range []bool{true, false} {
		end, took := play(t, Config{ReadUpstream: refuse}, script(reply))
		if end != nil || took > replyTimeout {
			t.Errorf("end %+v after %v", end, took)
		}
	}
}

// TestNothingPassesBehindARefusal: what refuses a message of one side lets no later frame of the other pass.
func TestNothingPassesBehindARefusal(t *testing.T) {
	toUpstream, toClient := &gather{}, &gather{}
	w := &tunnel{}
	w.up = &direction{tunnel: w, to: toUpstream, masked: true}
	w.down = &direction{tunnel: w, to: toClient, read: func([]byte, bool) *apierror.Error { return &apierror.Error{Code: "r"} }}
	last := text(0x81, "last", false)
	if err := errors.Join(w.down.pass(last), w.up.pass(text(0x81, "late", true))); err != nil {
		t.Fatal(err)
	}
	w.running.Wait()
	if got, want := toClient.Bytes(), append(last, text(0x88, "\x03\xf0r", false)...); !bytes.Equal(got, want) {
		t.Errorf("the client gets %q, want %q", got, want)
	}
	if got := toUpstream.Bytes(); len(got) != 2+4+3 || got[0] != 0x88 {
		t.Errorf("the upstream gets %q, want a close frame", got)
	}
}

// TestPanicInATunnel costs the tunnel, and not the process.
func TestPanicInATunnel(t *testing.T) {
	for _, cfg := range []Config{
		{ReadClient: func([]byte, bool) *apierror.Error { panic("a message") }},
		{ReadUpstream: func([]byte, bool) *apierror.Error { panic("a message") }},
	} {
		end, _ := play(t, cfg, func(c, u *pipe) {
			c.send(text(0x81, "x", true))
			u.send(text(0x81, "x", false))
			io.Copy(io.Discard, c.out)
			io.Copy(io.Discard, u.out)
		})
		if codeOf(end) != apierror.InternalError {
			t.Errorf("end %+v", end)
		}
	}
}
