package admit

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// Origin refuses what a browser sends. A page that was led here by DNS
// rebinding gives another Host; any other page's request has an Origin, a
// Referer or Sec-Fetch-Site. Programs send none of these.
type Origin struct {
	hosts map[string]bool
	port  string
}

// NewOrigin allows loopback addresses and localhost with port, and the names in
// more: a name alone stands for that name with port, or as it is with a port of
// its own.
func NewOrigin(port int, more []string) *Origin {
	o := &Origin{hosts: map[string]bool{}, port: strconv.Itoa(port)}
	for _, name := range append(more, "localhost") {
		name = strings.ToLower(name)
		o.hosts[name] = true
		o.hosts[name+":"+o.port] = !strings.Contains(name, ":")
	}
	o.hosts["localhost"] = port == 80
	return o
}

// check looks at a request that came over TCP.
func (o *Origin) check(head *http1.Request) *Denial {
	known := false
	for _, f := range head.Fields {
		switch {
		case http1.Is(f.Name, "origin"), http1.Is(f.Name, "referer"), http1.Is(f.Name, "sec-fetch-site"):
			return deny(BrowserNotAllowed, 0, "The request has the header %s, as browsers send it. Web pages may not use this proxy.", f.Name)
		case http1.Is(f.Name, "host"):
			known = o.allows(string(f.Value))
		}
	}
	if !known {
		return deny(HostNotAllowed, 0, "The Host header is none of this proxy's names. Use http://127.0.0.1:%s/v1, or start the proxy with --allow-host.", o.port)
	}
	return nil
}

func (o *Origin) allows(host string) bool {
	if o.hosts[strings.ToLower(host)] {
		return true
	}
	if addr, err := netip.ParseAddrPort(host); err == nil {
		return addr.Addr().IsLoopback() && addr.Addr().Zone() == "" && strconv.Itoa(int(addr.Port())) == o.port
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && o.port == "80" && addr.IsLoopback() && addr.Zone() == ""
}
