package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Page is a document about the proxy, for clients on this host. Its functions may be called from any goroutine, and
// must not block.
type Page struct {
	// Path is matched exactly. The request's query is ignored.
	Path string
	// Check returns why the response is 503, with the error as its text; nil never fails.
	Check func() error
	// ContentType and Body are the document; without them it is the text "ok".
	ContentType string
	Body        func() []byte
}

const (
	maxPageConns = 16
	maxPageHead  = 8 << 10 // in bytes
)

// pageServer serves pages. Each connection serves one request.
type pageServer struct {
	pages                     []Page
	log                       func(line string)
	headTimeout, writeTimeout time.Duration

	mu   sync.Mutex
	open []net.Conn // the oldest first
}

// ServePages responds to GET requests for pages until l is closed. It then closes their connections, including those of
// running requests, and returns nil; any other end is an error. log receives a line about each failure that no response
// can report, and must not block.
//
// A connection lasts 16 seconds at most, and at most 16 are open: one more closes the oldest, because a client that
// behaves is served in milliseconds. So a client that is slow to send or to read does not block the others.
func ServePages(l net.Listener, log func(line string), pages ...Page) error {
	return (&pageServer{pages: pages, log: log, headTimeout: 5 * time.Second, writeTimeout: 10 * time.Second}).serve(l)
}

func (s *pageServer) serve(l net.Listener) error {
	err := acceptAll(l, s.log, s.admit)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nc := range s.open {
		nc.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *pageServer) admit(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) == maxPageConns {
		s.open[0].Close()
		s.open = slices.Delete(s.open, 0, 1)
	}
	s.open = append(s.open, nc)
	go guarded(s.log, func() {
		defer s.remove(nc)
		s.exchange(nc)
	})
}

func (s *pageServer) remove(nc net.Conn) {
	nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = slices.DeleteFunc(s.open, func(other net.Conn) bool { return other == nc })
}

// exchange serves one request. A body is not read.
func (s *pageServer) exchange(nc net.Conn) {
	nc.SetReadDeadline(time.Now().Add(s.headTimeout))
	var req http1.Request
	head, err := http1.ReadHead(pageHead{bufio.NewReaderSize(nc, maxPageHead)}, maxPageHead)
	if err == nil {
		err = req.Parse(head)
	}
	var res pageResponse
	switch malformed, ok := errors.AsType[*http1.Error](err); {
	case err == nil:
		res = s.respond(&req, nc.LocalAddr().Network() == "unix")
	case ok:
		res = textResponse(malformed.Status, malformed.Reason)
	default:
		return
	}
	nc.SetWriteDeadline(time.Now().Add(s.writeTimeout))
	message := net.Buffers{res.head(), res.body}
	if string(req.Method) == "HEAD" {
		message = message[:1]
	}
	if _, err := message.WriteTo(nc); err == nil {
		linger(nc)
	}
}

// pageHead is the http1.Input of a connection's only head.
type pageHead struct{ in *bufio.Reader }

func (h pageHead) Consume(n int) { h.in.Discard(n) }

func (h pageHead) Buffered() []byte {
	p, _ := h.in.Peek(h.in.Buffered()) // cannot fail
	return p
}

func (h pageHead) Fill() error {
	_, err := h.in.Peek(h.in.Buffered() + 1)
	return err
}

type pageResponse struct {
	status      int
	contentType string
	body        []byte
}

func textResponse(status int, line string) pageResponse {
	return pageResponse{status, "text/plain; charset=utf-8", []byte(line + "\n")}
}

// respond refuses other hosts first: web pages must not read anything here, and DNS rebinding leads them here under a
// name of their own.
func (s *pageServer) respond(r *http1.Request, unix bool) pageResponse {
	if !bytes.HasPrefix(r.Target, []byte("/")) || !hostAllowed(r, unix) { // a target in absolute form has a host of its own
		return textResponse(403, "the target must be a path, and the Host header localhost or a loopback address")
	}
	path, _, _ := bytes.Cut(r.Target, []byte("?"))
	var paths []string
	for _, p := range s.pages {
		switch {
		case p.Path != string(path):
			paths = append(paths, p.Path)
		case string(r.Method) != "GET":
			return textResponse(405, "only GET is answered")
		default:
			return p.respond()
		}
	}
	return textResponse(404, "the pages here are "+strings.Join(paths, ", "))
}

func (p *Page) respond() pageResponse {
	if p.Check != nil {
		if err := p.Check(); err != nil {
			return textResponse(503, err.Error())
		}
	}
	if p.Body == nil {
		return textResponse(200, "ok")
	}
	return pageResponse{200, p.ContentType, p.Body()}
}

// hostAllowed takes any port: a client may come through a container's or a tunnel's. HTTP over a unix socket has no
// name that fits: it may be empty there.
func hostAllowed(r *http1.Request, unix bool) bool {
	host := string(r.Value("host"))
	name := host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name = host[:i]
	}
	return host == "" && unix || policy.IsLoopback(strings.ToLower(name))
}

func (r *pageResponse) head() []byte {
	b := appendHead(nil, r.status, nil)
	if r.status == 405 {
		b = append(b, "Allow: GET\r\n"...)
	}
	const fields = "Content-Type: %s\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
	return fmt.Appendf(b, fields, r.contentType, len(r.body))
}
