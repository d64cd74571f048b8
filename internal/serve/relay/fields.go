package relay

import (
	"bytes"
	"slices"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Fields that are never passed on to the upstream.
var dropFromRequest = lookup(
	// Credentials: the only one that the upstream sees is ours.
	"authorization", "proxy-authorization", "cookie", "cookie2", "api-key", "x-api-key", "x-goog-api-key",
	// Set anew for the upstream, or met here.
	"host", "content-length", "expect",
	// Between the client and us only (RFC 9110, section 7.6.1).
	"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
	// Some servers take these for another target or method: the route that was allowed would not be the one that is
	// served.
	"x-original-url", "x-rewrite-url", "x-http-method", "x-http-method-override", "x-method-override",
	// The upstream is not to learn the client's address, nor to take one that the client chose for true; nor is it to
	// take another host for its own.
	"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "x-host",
)

// Fields that are never passed on to the client.
var dropFromResponse = lookup(
	// Between the upstream and us only.
	"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
	"proxy-authenticate", "proxy-authentication-info", "content-length",
	// They would bind the client to another origin than the one it talks to.
	"set-cookie", "set-cookie2", "alt-svc", "strict-transport-security",
	// A response must not contain credentials, least of all ours (--auth-header).
	"authorization", "api-key", "x-api-key", "x-goog-api-key",
)

// requestFields appends the client's fields that may pass to dst.
func requestFields(dst, fields []http1.Field) []http1.Field {
	return passing(dst, fields, func(name []byte) bool {
		return dropFromRequest.has(name) || len(name) > 12 && isVariant(name[:12], "x-forwarded-")
	})
}

// responseFields appends the upstream's fields that may pass to dst.
func responseFields(dst, fields []http1.Field) []http1.Field {
	return passing(dst, fields, dropFromResponse.has)
}

var identityCoding = http1.Field{Name: []byte("accept-encoding"), Value: []byte("identity")}

// requestIdentity sets the fields that request a response without a content coding, which can be inspected.
func requestIdentity(fields []http1.Field) []http1.Field {
	return append(without(fields, "accept-encoding"), identityCoding)
}

// without drops the fields that a server could take for those of the name lower.
func without(fields []http1.Field, lower string) []http1.Field {
	return slices.DeleteFunc(fields, func(f http1.Field) bool { return isVariant(f.Name, lower) })
}

// withoutTokens drops credentials among the subprotocols, where a browser's client has them in place of an
// Authorization field, which it cannot set: the only one that the upstream sees is ours.
func withoutTokens(fields []http1.Field) []http1.Field {
	kept := fields[:0]
	for _, f := range fields {
		if isVariant(f.Name, "sec-websocket-protocol") {
			var protocols [][]byte
			http1.Tokens(f.Value, func(p []byte) {
				if !hasPrefix(p, "openai-insecure-api-key") {
					protocols = append(protocols, p)
				}
			})
			if f.Value = bytes.Join(protocols, []byte(", ")); len(protocols) == 0 {
				continue
			}
		}
		kept = append(kept, f)
	}
	return kept
}

// hasPrefix reports whether text begins with lower, in letters of any case.
func hasPrefix(text []byte, lower string) bool {
	return len(text) >= len(lower) && http1.Is(text[:len(lower)], lower)
}

// passing appends to dst, which may begin where fields does, what neither drop nor the Connection field names.
func passing(dst, fields []http1.Field, drop func(name []byte) bool) []http1.Field {
	named := nominated(fields, drop)
	for _, f := range fields {
		if !drop(f.Name) && (named == nil || !named[string(bytes.ToLower(f.Name))]) {
			dst = append(dst, f)
		}
	}
	return dst
}

// nominated is what Connection fields name as being for the next hop only, in lower case, but for what is dropped in
// any case: of ordinary messages that is all, and nil. It is gathered once, or a head of many fields and options
// would take their product.
func nominated(fields []http1.Field, drop func(name []byte) bool) (named map[string]bool) {
	for _, f := range fields {
		if !http1.Is(f.Name, "connection") {
			continue
		}
		http1.Tokens(f.Value, func(option []byte) {
			if drop(option) {
				return
			}
			if named == nil {
				named = map[string]bool{}
			}
			named[string(bytes.ToLower(option))] = true
		})
	}
	return named
}

// nameSet finds names and their variants without making strings of them.
type nameSet [][]string // by length

func lookup(names ...string) (s nameSet) {
	s = make(nameSet, len(slices.MaxFunc(names, func(a, b string) int { return len(a) - len(b) }))+1)
	for _, n := range names {
		s[len(n)] = append(s[len(n)], n)
	}
	return s
}

func (s nameSet) has(name []byte) bool {
	return len(name) < len(s) && slices.ContainsFunc(s[len(name)], func(n string) bool { return isVariant(name, n) })
}

// isVariant reports whether a server could take name for the name lower. CGI, WSGI and their like write letters in
// upper case and one underscore for each hyphen, some for each character that is no letter or digit: there
// Transfer_Encoding is Transfer-Encoding.
func isVariant(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
