// Package audit records in one line of JSON per request which user spent the key on what. It records facts about a
// request, never the content of the request or its response.
package audit

import (
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
)

// Entry describes one completed or rejected request. A client, the upstream or a process's name may determine the
// texts: AppendJSON cuts and escapes them. A text is "" if there was none.
type Entry struct {
	// Time is when the request's head was read, or found to be malformed, or the connection refused. Duration ends when
	// the last byte of the response was passed to the kernel, or the exchange was aborted; FirstByte with the first byte
	// of the final response, and is 0 without one.
	Time                time.Time
	Duration, FirstByte time.Duration
	Caller              Caller
	// Route is the route's name, from a closed set. Code is the error code, from the closed set of docs/errors.md. Status
	// is the response's status code, or 0. A response that was aborted has both a status and a code.
	Route, Code string
	Status      int
	// BytesIn and BytesOut are the sizes of the bodies: read from the client, and written to it.
	BytesIn, BytesOut int64
	// Streamed reports whether the response was an event stream, and Model is the model that it names.
	Streamed bool
	Model    string
	// Tokens reports whether the response contained InputTokens and OutputTokens.
	Tokens                    bool
	InputTokens, OutputTokens int64
	// RequestID is the upstream's x-request-id.
	RequestID string
	// Upstream reports whether the request was sent upstream, or should have been; Reused whether it used an existing
	// connection.
	Upstream, Reused bool
}

// Caller is the user and process at the other end of a connection, as far as the kernel reports them.
type Caller struct {
	// UID is valid only if Known is true.
	UID   uint32
	Known bool
	// Groups are the user's groups, PID is the process that connected, which may have passed the connection on, and
	// Command its name, of at most 15 bytes. They are known over a unix socket only.
	Groups  []uint32
	PID     int
	Command string
	// Unix reports whether the connection came over a unix socket. Over TCP the client may be a browser.
	Unix bool
}

// MaxLine is an upper bound of the length of a line, in bytes, for any texts and numbers.
const MaxLine = 3 << 10

// Maximum bytes of each text, before escaping.
const (
	maxCommand   = 15
	maxModel     = 64
	maxRequestID = 128
	maxName      = 64 // of a route or a code, which are always shorter
)

// AppendJSON appends e as one JSON object and a line feed. It does not allocate if dst has capacity for [MaxLine]
// bytes. The keys, listed in docs/logging.md, always have the same order; unknown values are omitted. Texts are cut
// between runes. Characters that could affect a terminal, such as control characters and direction marks, are escaped,
// and invalid UTF-8 is replaced with U+FFFD.
func (e *Entry) AppendJSON(dst []byte) []byte {
	l := begin(dst, e.Time)
	l.millis("duration_ms", e.Duration)
	if e.FirstByte > 0 {
		l.millis("first_byte_ms", e.FirstByte)
	}
	if e.Caller.Known {
		l.int("uid", int64(e.Caller.UID))
	}
	if e.Caller.PID != 0 {
		l.int("pid", int64(e.Caller.PID))
	}
	l.text("command", e.Caller.Command, maxCommand)
	transport := "tcp"
	if e.Caller.Unix {
		transport = "unix"
	}
	l.text("transport", transport, maxName)
	l.text("route", e.Route, maxName)
	if e.Status != 0 {
		l.int("status", int64(e.Status))
	}
	l.text("code", e.Code, maxName)
	l.int("bytes_in", e.BytesIn)
	l.int("bytes_out", e.BytesOut)
	l.raw("streamed", strconv.FormatBool(e.Streamed))
	l.text("model", e.Model, maxModel)
	if e.Tokens {
		l.int("input_tokens", e.InputTokens)
		l.int("output_tokens", e.OutputTokens)
	}
	l.text("request_id", e.RequestID, maxRequestID)
	if e.Upstream {
		l.raw("upstream_reused", strconv.FormatBool(e.Reused))
	}
	return l.end()
}

// line is a JSON object that is being appended. encoding/json and log/slog would use other escapes, and allocate.
type line []byte

func begin(dst []byte, t time.Time) line {
	return append(t.UTC().AppendFormat(append(dst, `{"time":"`...), "2006-01-02T15:04:05.000Z07:00"), '"')
}

func (l line) end() []byte { return append(l, "}\n"...) }

// raw appends a member whose value is JSON already, or is appended next.
func (l *line) raw(name, value string) {
	*l = append(append(append(append(*l, `,"`...), name...), `":`...), value...)
}

func (l *line) int(name string, n int64) {
	l.raw(name, "")
	*l = strconv.AppendInt(*l, n, 10)
}

// millis appends a number of milliseconds with three decimals, rounded down; 0 for a negative duration, which results
// from a clock that was set back.
func (l *line) millis(name string, d time.Duration) {
	us := max(d, 0).Microseconds()
	l.int(name, us/1000)
	*l = append(*l, '.', '0'+byte(us/100%10), '0'+byte(us/10%10), '0'+byte(us%10))
}

// text appends a member, unless its text is empty.
func (l *line) text(name, text string, limit int) {
	if text == "" {
		return
	}
	l.raw(name, `"`)
	*l = append(appendEscaped(*l, cut(text, limit)), '"')
}

// cut returns at most limit bytes of text, without a part of a rune.
func cut(text string, limit int) string {
	for i := range text {
		if _, size := utf8.DecodeRuneInString(text[i:]); i+size > limit {
			return text[:i]
		}
	}
	return text
}

// appendEscaped appends the content of a JSON string, without its quotes.
func appendEscaped(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case linelog.Printable(r):
			dst = utf8.AppendRune(dst, r)
		default:
			for _, u := range utf16.AppendRune(make([]uint16, 0, 2), r) {
				dst = append(dst, '\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15])
			}
		}
	}
	return dst
}
