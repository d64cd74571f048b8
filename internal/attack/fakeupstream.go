package attack

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
)

// words are in the body of every request that goes to the stand-in: whoever
// has got them has got what a client said.
const words = "Only-my-upstream-may-read-this"

// A fakeUpstream is an upstream that the checker controls, with a second server that
// nobody has any business with.
type fakeUpstream struct {
	key              []byte
	upstream, second http.Server
	address, other   string // of the two, as host:port
	mu               sync.Mutex
	handler          http.HandlerFunc // how the upstream answers now
	seen             []sight          // since handler was set
}

// A sight is a request that has come to the stand-in.
type sight struct {
	what      string // method and place
	right     bool   // it came to the upstream, by its name, for the one route
	key, body bool   // it had the key; it had what the client said
}

func startFakeUpstream(key []byte) (*fakeUpstream, error) {
	s := &fakeUpstream{key: key}
	s.setHandler(refuse)
	for _, server := range []struct {
		*http.Server
		address *string
		right   bool
	}{{&s.upstream, &s.address, true}, {&s.second, &s.other, false}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.close()
			return nil, fmt.Errorf("cannot listen for the stand-in: %w", err)
		}
		*server.address = ln.Addr().String()
		server.ErrorLog = log.New(io.Discard, "", 0)
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, server.right) })
		go server.Serve(ln) // until it is closed
	}
	return s, nil
}

// close ends both servers, and with them all answers that are still running.
func (s *fakeUpstream) close() {
	s.upstream.Close()
	s.second.Close()
}

// setHandler sets how the upstream responds from now on, and forgets what was seen.
func (s *fakeUpstream) setHandler(handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler, s.seen = handler, nil
}

// sights returns what was seen since setHandler, and how often the upstream itself was
// asked.
func (s *fakeUpstream) sights() (misdirected []sight, arrived int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.seen {
		if x.right {
			arrived++
		} else {
			misdirected = append(misdirected, x)
		}
	}
	return misdirected, arrived
}

// serve notes a request and answers it. The upstream answers under its second
// name and for other routes too: nobody comes to these by the proxy's rules.
func (s *fakeUpstream) serve(w http.ResponseWriter, r *http.Request, right bool) {
	var head bytes.Buffer
	r.Header.Write(&head)
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxAnswer)) // read to its end, so that a client's leaving is noticed
	x := sight{what: r.Method + " " + r.URL.Path, key: bytes.Contains(head.Bytes(), s.key), body: bytes.Contains(body, []byte(words))}
	if !right {
		x.what = r.Method + " to the second server"
	}
	x.right = right && r.URL.Path == "/v1/responses" && !strings.HasPrefix(r.Host, "localhost:")
	s.mu.Lock()
	s.seen = append(s.seen, x)
	handler := s.handler
	s.mu.Unlock()
	switch {
	case x.right:
		handler(w, r)
	case r.URL.Path == "/hop":
		redirect(w, http.StatusTemporaryRedirect, "http://"+s.other+"/v1/responses")
	default:
		refuse(w, r)
	}
}

// refuse answers as OpenAI does to what is no JSON.
func refuse(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "req_stand_in")
	w.WriteHeader(http.StatusBadRequest)
	io.WriteString(w, `{"error":{"message":"stand-in","type":"invalid_request_error","param":null,"code":null}}`)
}

func redirect(w http.ResponseWriter, status int, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(status)
}

// echo gives the key back wherever it can.
func echo(w http.ResponseWriter, r *http.Request) {
	auth := r.Header.Get("Authorization")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Authorization", auth)
	w.Header().Set("Set-Cookie", "echo="+auth)
	fmt.Fprintf(w, "{%q:%q}", "echo", auth)
}

// cut breaks off in the middle of an answer with the given framing.
func cut(framing string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		buf.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing)
		buf.Flush()
	}
}

// slow begins an answer, or not even that, and goes on until the proxy leaves.
func slow(begin bool, waits, left chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if begin {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: {}\n\n")
			http.NewResponseController(w).Flush()
		}
		waits <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}
}
