package metrics

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Health answers for the service. Its functions may be called from any
// goroutine, and must not block.
type Health struct {
	// Healthy returns why the service is not serving, or is draining; nil if it
	// serves. Required.
	Healthy func() error
	// Ready returns why a new request would not be taken; nil if it would.
	// Required.
	Ready func() error
}

// Handler answers GET /metrics, /healthz and /readyz, and nothing else. Web
// pages cannot read it: DNS rebinding gives a Host that is refused.
func (m *Metrics) Handler(h Health) http.Handler {
	pages := map[string]http.HandlerFunc{
		"/metrics": m.serve,
		"/healthz": h.serve(h.Healthy),
		"/readyz":  h.serve(h.Ready),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, known := pages[r.URL.Path]
		switch {
		case !hostAllowed(r.Host, overUnix(r)):
			say(w, http.StatusForbidden, "the Host header must be localhost or a loopback address")
		case !known:
			say(w, http.StatusNotFound, "there are /metrics, /healthz and /readyz")
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			say(w, http.StatusMethodNotAllowed, "only GET is answered")
		default:
			page(w, r)
		}
	})
}

func (m *Metrics) serve(w http.ResponseWriter, _ *http.Request) {
	p := page{text: make([]byte, 0, 16<<10)}
	m.write(&p)
	answer(w, http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", p.text)
}

func (Health) serve(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			say(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		say(w, http.StatusOK, "ok")
	}
}

func say(w http.ResponseWriter, status int, line string) {
	answer(w, status, "text/plain; charset=utf-8", []byte(line+"\n"))
}

func answer(w http.ResponseWriter, status int, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body) // who does not want it has left
}

func overUnix(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// hostAllowed takes localhost and loopback addresses with any port, for what
// the client calls the port need not be ours (a container's, a tunnel's). HTTP
// over a unix socket has no name that fits: there it may be empty.
func hostAllowed(host string, unix bool) bool {
	if host == "" {
		return unix
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	return strings.EqualFold(host, "localhost") || loopback(host)
}

// loopback tells whether s is an address of this host's own. A zone makes none
// of it: it could name any interface.
func loopback(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == "" && addr.Unmap().IsLoopback()
}
