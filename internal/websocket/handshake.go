// Package websocket is as much of RFC 6455 as a proxy needs that does not look
// into messages: the handshake, where frames end, and how a connection ends.
package websocket

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// Handshake is a client's opening handshake. It points into the request's head.
type Handshake struct {
	key                   []byte
	extensions, protocols [][]byte // offered
}

// Parse checks a GET's head by RFC 6455, section 4.2.1. An error is in words for
// the client; its status is 426 for a version that is not spoken here, and 400
// for everything else.
func Parse(head *http1.Request) (*Handshake, *http1.Error) {
	h := &Handshake{}
	var upgrades, keys, versions int
	var version []byte
	upgrading := false
	for _, f := range head.Fields {
		switch {
		case http1.Is(f.Name, "connection"):
			upgrading = upgrading || has(f.Value, "upgrade")
		case http1.Is(f.Name, "upgrade") && http1.Is(f.Value, "websocket"):
			upgrades++
		case http1.Is(f.Name, "upgrade"):
			upgrades += 2 // another protocol, too or instead
		case http1.Is(f.Name, "sec-websocket-key"):
			keys++
			h.key = f.Value
		case http1.Is(f.Name, "sec-websocket-version"):
			versions++
			version = f.Value
		case http1.Is(f.Name, "sec-websocket-extensions"):
			http1.Tokens(f.Value, func(e []byte) { h.extensions = offer(h.extensions, name(e)) })
		case http1.Is(f.Name, "sec-websocket-protocol"):
			http1.Tokens(f.Value, func(p []byte) { h.protocols = offer(h.protocols, p) })
		}
	}
	bad := func(status int, reason string) (*Handshake, *http1.Error) {
		return nil, &http1.Error{Status: status, Reason: reason}
	}
	switch {
	case head.Minor != 1:
		return bad(400, "it needs HTTP/1.1")
	case head.Length != 0:
		return bad(400, "it cannot have a body")
	case upgrades != 1:
		return bad(400, "it needs the header Upgrade: websocket, and no other protocol")
	case !upgrading:
		return bad(400, "it needs the header Connection: Upgrade")
	case len(h.extensions) > maxOffers || len(h.protocols) > maxOffers:
		return bad(400, "it offers too many extensions or protocols")
	case versions != 1 || string(version) != "13":
		return bad(426, "the only version here is 13")
	case keys != 1 || !validKey(h.key):
		return bad(400, "it needs one header Sec-WebSocket-Key, with 16 bytes of base64")
	}
	return h, nil
}

// maxOffers is how many extensions, or protocols, a client may offer. Clients
// offer one or two; a head would hold 100,000.
const maxOffers = 64

// offer appends one, up to one too many.
func offer(all [][]byte, one []byte) [][]byte {
	if len(all) > maxOffers {
		return all
	}
	return append(all, one)
}

// has tells whether a list has a member, in any case.
func has(list []byte, member string) (found bool) {
	http1.Tokens(list, func(m []byte) { found = found || http1.Is(m, member) })
	return found
}

// name is an extension's, without its parameters.
func name(extension []byte) []byte {
	n, _, _ := bytes.Cut(extension, []byte(";"))
	return bytes.TrimSpace(n)
}

func validKey(key []byte) bool {
	var nonce [18]byte
	if len(key) != base64.StdEncoding.EncodedLen(16) {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(nonce[:], key)
	return err == nil && n == 16
}

// accept is what the server proves with that it has understood the key.
func (h *Handshake) accept() string {
	sum := sha1.Sum(append(bytes.Clone(h.key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Check tells what is wrong with an answer of status 101 (RFC 6455, section
// 4.1), in words for the operator that repeat nothing of it.
func (h *Handshake) Check(head *http1.Response) error {
	var upgrades, accepts, protocols int
	upgrading, proven, offered := false, false, true
	for _, f := range head.Fields {
		switch {
		case http1.Is(f.Name, "connection"):
			upgrading = upgrading || has(f.Value, "upgrade")
		case http1.Is(f.Name, "upgrade") && http1.Is(f.Value, "websocket"):
			upgrades++
		case http1.Is(f.Name, "upgrade"):
			upgrades += 2
		case http1.Is(f.Name, "sec-websocket-accept"):
			accepts++
			proven = string(f.Value) == h.accept()
		case http1.Is(f.Name, "sec-websocket-extensions"):
			http1.Tokens(f.Value, func(e []byte) { offered = offered && among(h.extensions, name(e)) })
		case http1.Is(f.Name, "sec-websocket-protocol"):
			protocols++
			offered = offered && among(h.protocols, f.Value)
		}
	}
	switch {
	case upgrades != 1 || !upgrading:
		return errors.New("the upstream switches to another protocol than WebSocket")
	case accepts != 1 || !proven:
		return errors.New("the upstream's Sec-WebSocket-Accept is wrong")
	case protocols > 1 || !offered:
		return errors.New("the upstream chose an extension or a protocol that the client has not offered")
	}
	return nil
}

func among(all [][]byte, one []byte) bool {
	for _, a := range all {
		if bytes.Equal(a, one) {
			return true
		}
	}
	return false
}
