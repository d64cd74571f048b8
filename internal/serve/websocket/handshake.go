// Package websocket implements the parts of RFC 6455 that a proxy needs which does not read messages: the handshake,
// the ends of frames, and the end of a connection.
package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// maxOffers is the maximum number of extensions, protocols, or connection options that are read. Clients offer one or
// two; a head could contain 100,000.
const maxOffers = 64

// Handshake is a client's opening handshake. It does not refer to the request's head.
type Handshake struct {
	key                   string
	extensions, protocols []string // offered
}

// Parse checks a GET's head by RFC 6455, section 4.2.1. The status of the error is 426 for an unsupported version,
// and 400 otherwise.
func Parse(head *http1.Request) (*Handshake, *apierror.Error) {
	keys, versions := values(head.Fields, "sec-websocket-key"), values(head.Fields, "sec-websocket-version")
	extensions, protocols := members(head.Fields, "sec-websocket-extensions"), members(head.Fields, "sec-websocket-protocol")
	status, reason := 400, ""
	switch {
	case head.Minor != 1:
		reason = "it needs HTTP/1.1"
	case head.Length != 0:
		reason = "it cannot have a body"
	case !namesWebSocket(head.Fields):
		reason = "it needs the header Upgrade: websocket, and no other protocol"
	case !hasUpgradeOption(head.Fields):
		reason = "it needs the header Connection: Upgrade"
	case len(extensions) > maxOffers || len(protocols) > maxOffers:
		reason = "it offers too many extensions or protocols"
	case len(versions) != 1 || versions[0] != "13":
		status, reason = 426, "the only version here is 13"
	case len(keys) != 1 || !validKey(keys[0]):
		reason = "it needs one header Sec-WebSocket-Key, with 16 bytes of base64"
	default:
		return &Handshake{keys[0], extensions, protocols}, nil
	}
	return nil, apierror.Malformed(apierror.WebsocketMalformed, &http1.Error{Status: status, Reason: reason})
}

// Check returns an error if a response of status 101 does not complete the handshake (RFC 6455, section 4.1). The error
// is for the operator and quotes nothing of the response.
func (h *Handshake) Check(head *http1.Response) error {
	accepts, chosen := values(head.Fields, "sec-websocket-accept"), values(head.Fields, "sec-websocket-protocol")
	extensions := members(head.Fields, "sec-websocket-extensions")
	sum := sha1.Sum([]byte(h.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // proves that the server has processed the key
	switch {
	case !namesWebSocket(head.Fields) || !hasUpgradeOption(head.Fields):
		return errors.New("the upstream switches to another protocol than WebSocket")
	case len(accepts) != 1 || accepts[0] != base64.StdEncoding.EncodeToString(sum[:]):
		return errors.New("the upstream's Sec-WebSocket-Accept is wrong")
	case len(chosen) > 1 || !offered(h.protocols, chosen) || len(extensions) > maxOffers || !offered(h.extensions, extensions):
		return errors.New("the upstream chose an extension or a protocol that the client has not offered")
	}
	return nil
}

// values returns the values of all fields of that name.
func values(fields []http1.Field, name string) (all []string) {
	for _, f := range fields {
		if http1.Is(f.Name, name) {
			all = append(all, string(f.Value))
		}
	}
	return all
}

// members returns the members of the lists in all fields of that name, at most one more than maxOffers.
func members(fields []http1.Field, name string) (all []string) {
	for _, list := range values(fields, name) {
		http1.Tokens([]byte(list), func(m []byte) {
			if len(all) <= maxOffers {
				all = append(all, string(m))
			}
		})
	}
	return all
}

// namesWebSocket reports whether the fields name WebSocket, and no other protocol, in Upgrade.
func namesWebSocket(fields []http1.Field) bool {
	protocols := values(fields, "upgrade")
	return len(protocols) == 1 && http1.Is([]byte(protocols[0]), "websocket")
}

func hasUpgradeOption(fields []http1.Field) bool {
	return slices.ContainsFunc(members(fields, "connection"), func(m string) bool { return http1.Is([]byte(m), "upgrade") })
}

// offered reports whether everything chosen was offered. Parameters of extensions are ignored.
func offered(offers, chosen []string) bool {
	name := func(extension string) string {
		name, _, _ := strings.Cut(extension, ";")
		return strings.TrimSpace(name)
	}
	return !slices.ContainsFunc(chosen, func(c string) bool {
		return !slices.ContainsFunc(offers, func(o string) bool { return name(o) == name(c) })
	})
}

func validKey(key string) bool {
	nonce, err := base64.StdEncoding.Strict().DecodeString(key)
	return err == nil && len(nonce) == 16 && len(key) == base64.StdEncoding.EncodedLen(16)
}
