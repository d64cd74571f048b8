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
	refused, ok := errors.AsType[*http1.Error](err)
	if err != nil && !ok {
		return
	}
	message := s.respond(&req, refused, nc.LocalAddr().Network() == "unix")
	if string(req.Method) == "HEAD" {
		message = message[:1]
	}
	nc.SetWriteDeadline(time.Now().Add(s.writeTimeout))
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

// respond returns the head and the body of the response. refused is what is wrong with r's head, if anything is.
func (s *pageServer) respond(r *http1.Request, refused *http1.Error, unix bool) net.Buffers {
	status, contentType, body := 200, "text/plain; charset=utf-8", []byte("ok\n")
	var page *Page
	if refused == nil {
		page, refused = s.find(r, unix)
	}
	switch {
	case refused != nil:
		status, body = refused.Status, []byte(refused.Reason+"\n")
	case page.Body != nil:
		contentType, body = page.ContentType, page.Body()
	}
	head := appendHead(nil, status, nil)
	if status == 405 {
		head = append(head, "Allow: GET\r\n"...)
	}
	const fields = "Content-Type: %s\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
	return net.Buffers{fmt.Appendf(head, fields, contentType, len(body)), body}
}

// find returns the page that r requests. It refuses other hosts first: web pages must not read anything here, and DNS
// rebinding leads them here under a name of their own.
func (s *pageServer) find(r *http1.Request, unix bool) (*Page, *http1.Error) {
	if !bytes.HasPrefix(r.Target, []byte("/")) || !hostAllowed(r, unix) { // a target in absolute form has a host of its own
		return nil, &http1.Error{Status: 403, Reason: "the target must be a path, and the Host header localhost or a loopback address"}
	}
	path, _, _ := bytes.Cut(r.Target, []byte("?"))
	i := slices.IndexFunc(s.pages, func(p Page) bool { return p.Path == string(path) })
	switch {
	case i < 0:
		var paths []string
		for _, p := range s.pages {
			paths = append(paths, p.Path)
		}
		return nil, &http1.Error{Status: 404, Reason: "the pages here are " + strings.Join(paths, ", ")}
	case string(r.Method) != "GET":
		return nil, &http1.Error{Status: 405, Reason: "only GET is answered"}
	case s.pages[i].Check != nil:
		if err := s.pages[i].Check(); err != nil {
			return nil, &http1.Error{Status: 503, Reason: err.Error()}
		}
	}
	return &s.pages[i], nil
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
