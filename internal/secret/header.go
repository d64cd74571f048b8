package secret

import "fmt"

// Header is the field in which a key goes to the upstream.
type Header uint8

// The fields of --auth-header.
const (
	// Bearer is "authorization: Bearer KEY" (RFC 6750, section 2.1).
	Bearer Header = iota
	// APIKey is "api-key: KEY".
	APIKey
	// XAPIKey is "x-api-key: KEY".
	XAPIKey
)

var headers = [...]struct{ name, prefix string }{
	Bearer:  {"bearer", "authorization: Bearer "},
	APIKey:  {"api-key", "api-key: "},
	XAPIKey: {"x-api-key", "x-api-key: "},
}

// ParseHeader is the header of that name: bearer, api-key or x-api-key.
func ParseHeader(name string) (Header, error) {
	for h, known := range headers {
		if name == known.name {
			return Header(h), nil
		}
	}
	return 0, fmt.Errorf("%q is not a kind of header; choose bearer, api-key or x-api-key", name)
}

// String is the name that ParseHeader takes.
func (h Header) String() string { return headers[h].name }

func (h Header) prefix() string { return headers[h].prefix }
