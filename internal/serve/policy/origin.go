package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Origin refuses requests of browsers. A page that uses DNS rebinding sends another Host; any other page's request has
// an Origin, a Referer or Sec-Fetch-Site. Programs send none of these.
type Origin struct {
	named map[string]bool // besides loopback
	port  string
	usual string // what nearly every client sends; compared first, since to parse an address takes longer
}

// NewOrigin allows loopback addresses and localhost with port, and the names in more: a name without a port stands for
// that name with port, and one with a port for itself.
func NewOrigin(port int, more []string) *Origin {
	o := &Origin{named: map[string]bool{}, port: strconv.Itoa(port)}
	o.usual = "127.0.0.1:" + o.port
	for _, name := range more {
		name = strings.ToLower(name)
		o.named[name] = true
		o.named[name+":"+o.port] = !strings.Contains(name, ":")
	}
	return o
}

// check inspects a request that came over TCP. Stopping requires a loopback Host: to plain http at any other name,
// browsers send a page's GET without Sec-Fetch-Site, and without Referer if the page requests that.
func (o *Origin) check(head *http1.Request, stopping bool) *apierror.Error {
	allowed := false
	for _, f := range head.Fields {
		switch {
		case http1.Is(f.Name, "origin"), http1.Is(f.Name, "referer"), http1.Is(f.Name, "sec-fetch-site"):
			return apierror.Newf(apierror.BrowserNotAllowed, 0, "The request has the header %s, as browsers send it. Web pages may not use this proxy.", f.Name)
		case http1.Is(f.Name, "host"):
			host := strings.ToLower(string(f.Value))
			name, ours := strings.CutSuffix(host, ":"+o.port)
			allowed = host == o.usual || (ours || o.port == "80") && IsLoopback(name) || o.named[host] && !stopping
		}
	}
	switch {
	case allowed:
		return nil
	case stopping:
		return apierror.Newf(apierror.HostNotAllowed, 0, "GET /shutdown takes a loopback address in the Host header, whatever --allow-host names. Use http://127.0.0.1:%s/shutdown.", o.port)
	}
	return apierror.Newf(apierror.HostNotAllowed, 0, "The Host header is none of this proxy's names. Use http://127.0.0.1:%s/v1, or start the proxy with --allow-host.", o.port)
}

// IsLoopback reports whether name, the host part of a URL in lower case, is localhost or a loopback address.
func IsLoopback(name string) bool {
	addr, err := netip.ParseAddrPort(name + ":1")
	return name == "localhost" || err == nil && addr.Addr().IsLoopback() && addr.Addr().Zone() == ""
}
