package relay

import (
	"io"
	"math"

	"github.com/responses-api-proxy/responses-api-proxy/internal/dump"
	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// dumpUser is whose share of the dumps' room the exchange takes.
func (b *exchange) dumpUser() uint32 {
	if b.visitor == nil || !b.visitor.Caller().Known {
		return math.MaxUint32 // no user's uid
	}
	return b.visitor.Caller().UID
}

// tap lets d, which may be nil, see the request that passes, whose body is
// length bytes long.
func (b *exchange) tap(d *dump.Exchange, body upstream.Body, length int64) upstream.Body {
	b.dump = d
	if d == nil {
		return body
	}
	if length == 0 {
		d.RequestEnd(true)
	}
	return &tappedBody{body, d, length}
}

// tappedBody passes a body on to its dump, too.
type tappedBody struct {
	upstream.Body
	dump *dump.Exchange
	left int64 // http1.Chunked, where nobody knows
}

func (t *tappedBody) Read(p []byte) (int, error) {
	n, err := t.Body.Read(p)
	t.dump.Request(p[:n])
	if t.left != http1.Chunked {
		t.left -= int64(n)
	}
	if err == io.EOF || t.left == 0 && n > 0 {
		t.dump.RequestEnd(true)
	}
	return n, err
}
