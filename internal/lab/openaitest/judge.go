package openaitest

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// disagreement returns how net/http reads a head otherwise than r, as package http1 has parsed it, or "". The proxy
// under test uses http1 as well, and without a second opinion a fault of that parser would be judged by itself.
func disagreement(head []byte, r *http1.Request) string {
	in := bufio.NewReader(bytes.NewReader(head))
	req, err := http.ReadRequest(in)
	if err != nil {
		return "net/http refuses the head" // err may show the key
	}
	rest, _ := io.ReadAll(in) // cannot fail
	fields := fieldsOf(r)
	host := cmp.Or(req.URL.Host, fields.Get("Host"))                        // a target with a host counts (RFC 9112, section 3.2.2)
	for _, name := range []string{"Host", "Transfer-Encoding", "Trailer"} { // net/http moves them out of the header
		delete(req.Header, name)
		delete(fields, name)
	}
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"end", len(rest), 0},
		{"method", req.Method, string(r.Method)},
		{"target", req.RequestURI, string(r.Target)},
		{"version", fmt.Sprint(req.ProtoMajor, req.ProtoMinor), fmt.Sprint(1, r.Minor)},
		{"Host", req.Host, host},
		{"length", req.ContentLength, r.Length}, // both have -1 for chunked
		{"closing", req.Close, r.Close},
	} {
		if c.got != c.want {
			return fmt.Sprintf("net/http reads another %s: %v, not %v", c.what, c.got, c.want)
		}
	}
	if !maps.EqualFunc(fields, req.Header, slices.Equal) {
		return fmt.Sprintf("net/http reads other fields: %d of %q", len(req.Header), slices.Sorted(maps.Keys(fields)))
	}
	return ""
}

// fieldsOf returns r's fields as net/http presents them.
func fieldsOf(r *http1.Request) http.Header {
	fields := http.Header{}
	for _, f := range r.Fields {
		fields.Add(string(f.Name), string(f.Value))
	}
	if fields.Get("Pragma") == "no-cache" && fields["Cache-Control"] == nil {
		fields.Set("Cache-Control", "no-cache") // net/http adds it
	}
	return fields
}
