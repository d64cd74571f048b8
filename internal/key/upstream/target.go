package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// DefaultURL is the upstream URL unless the operator names another one.
const DefaultURL = "https://api.openai.com/v1/responses"

// Target is a parsed upstream URL. It is immutable.
type Target struct {
	// TLS reports whether the scheme is https.
	TLS bool
	// Host is the value of the Host field, which contains the port only if it is not the scheme's default.
	Host string
	// Name is the host name, for name resolution and for the certificate.
	Name string
	// Addr is the host:port to dial.
	Addr string
	// Path is the request target: path and query, unchanged from the URL.
	Path string
	// Insecure allows plain http to addresses that are not loopback.
	Insecure bool
}

// ParseTarget parses an absolute http or https URL. It refuses user info, a fragment and, unless insecure is true,
// plain http to anything but a loopback address: the key would cross a network in clear.
func ParseTarget(raw string, insecure bool) (*Target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("--upstream-url is not a URL: %w; give it as https://HOST/PATH", errors.Unwrap(err))
	}
	if err := checkParts(u, raw); err != nil {
		return nil, err
	}
	name, err := hostName(u.Hostname())
	if err != nil {
		return nil, err
	}
	t := &Target{TLS: u.Scheme == "https", Name: name, Path: u.RequestURI(), Insecure: insecure}
	for _, c := range []byte(t.Path) {
		if c <= ' ' || c >= 0x7f { // net/url encodes paths, but not queries
			return nil, errors.New("--upstream-url has a character in its query that must be percent-encoded")
		}
	}
	standard := "80"
	if t.TLS {
		standard = "443"
	}
	port := cmp.Or(u.Port(), standard)
	t.Addr = net.JoinHostPort(name, port)
	if t.Host = t.Addr; port == standard {
		t.Host = strings.TrimSuffix(t.Addr, ":"+port)
	}
	if !t.TLS && !insecure && !loopback(name) {
		return nil, fmt.Errorf("--upstream-url: plain http would send the key to %s in clear; use https, or add --upstream-tls off", name)
	}
	return t, nil
}

// Location returns the URL without its query, which may hold what is not to be shown.
func (t *Target) Location() string {
	scheme := "http://"
	if t.TLS {
		scheme = "https://"
	}
	path, _, _ := strings.Cut(t.Path, "?")
	return scheme + t.Host + path
}

func checkParts(u *url.URL, raw string) error {
	switch {
	case strings.Contains(raw, "#"):
		return errors.New("--upstream-url must not have a fragment (#...)")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("--upstream-url must begin with https:// or http://")
	case u.Hostname() == "":
		return errors.New("--upstream-url has no host; give it as https://HOST/PATH")
	case u.User != nil:
		return errors.New("--upstream-url must not contain a user name or password; the key comes from standard input")
	case strings.HasSuffix(u.Host, ":"):
		return errors.New("--upstream-url has an empty port; add the number, or omit the colon")
	case !isPort(cmp.Or(u.Port(), "80")):
		return fmt.Errorf("--upstream-url: %s is not a port (1 to 65535)", u.Port())
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// hostName returns an IP address unchanged, and any other name in the ASCII form that DNS and certificates use (RFC
// 5890).
func hostName(name string) (string, error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return name, nil
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("--upstream-url: %q is not a host name", name)
	}
	return ascii, nil
}

// loopback reports whether name is a loopback address, or localhost, which an [Endpoint] never resolves.
func loopback(name string) bool {
	if name == localhost {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}
