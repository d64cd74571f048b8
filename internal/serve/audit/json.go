package audit

import (
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
)

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
