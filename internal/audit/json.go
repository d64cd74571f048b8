package audit

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
)

// MaxLine is more than any line is long, in bytes, whatever is in its texts and numbers.
const MaxLine = 3 << 10

// What is kept of each text, in bytes, before it is escaped.
const (
	maxCommand   = 15
	maxModel     = 64
	maxRequestID = 128
	maxName      = 64 // of a route or a code, which are never that long
)

const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// AppendJSON appends e as one JSON object and a line feed; it does not allocate where dst has room for [MaxLine] bytes.
// The keys are always in the same order; what is not known is left out. docs/operations.md lists the keys.
//
// Texts are cut at a rune's boundary. What no terminal should show, such as control characters and marks of writing
// direction, is escaped, and what is not UTF-8 becomes U+FFFD.
func (e *Entry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = e.Time.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, `","duration_ms":`...)
	dst = appendMillis(dst, e.Duration)
	if e.FirstByte > 0 {
		dst = append(dst, `,"first_byte_ms":`...)
		dst = appendMillis(dst, e.FirstByte)
	}
	dst = e.Caller.appendJSON(dst)
	dst = e.appendAnswer(dst)
	dst = e.appendSpent(dst)
	dst = appendText(dst, `,"request_id":`, e.RequestID, maxRequestID)
	if e.Upstream {
		dst = append(dst, `,"upstream_reused":`...)
		dst = strconv.AppendBool(dst, e.Reused)
	}
	return append(dst, '}', '\n')
}

func (c *Caller) appendJSON(dst []byte) []byte {
	if c.Known {
		dst = appendInt(dst, `,"uid":`, int64(c.UID))
	}
	if c.PID != 0 {
		dst = appendInt(dst, `,"pid":`, int64(c.PID))
	}
	dst = appendText(dst, `,"command":`, c.Command, maxCommand)
	if c.Unix {
		return append(dst, `,"transport":"unix"`...)
	}
	return append(dst, `,"transport":"tcp"`...)
}

func (e *Entry) appendAnswer(dst []byte) []byte {
	dst = appendText(dst, `,"route":`, e.Route, maxName)
	if e.Status != 0 {
		dst = appendInt(dst, `,"status":`, int64(e.Status))
	}
	return appendText(dst, `,"code":`, e.Code, maxName)
}

func (e *Entry) appendSpent(dst []byte) []byte {
	dst = appendInt(dst, `,"bytes_in":`, e.BytesIn)
	dst = appendInt(dst, `,"bytes_out":`, e.BytesOut)
	dst = append(dst, `,"streamed":`...)
	dst = strconv.AppendBool(dst, e.Streamed)
	dst = appendText(dst, `,"model":`, e.Model, maxModel)
	if e.Tokens {
		dst = appendInt(dst, `,"input_tokens":`, e.InputTokens)
		dst = appendInt(dst, `,"output_tokens":`, e.OutputTokens)
	}
	return dst
}

func appendInt(dst []byte, key string, n int64) []byte {
	return strconv.AppendInt(append(dst, key...), n, 10)
}

// appendMillis appends milliseconds with three decimals, rounded down; 0 for what is negative, as a clock that was set
// back makes it.
func appendMillis(dst []byte, d time.Duration) []byte {
	us := max(d, 0).Microseconds()
	dst = strconv.AppendInt(dst, us/1000, 10)
	return append(dst, '.', digit(us/100), digit(us/10), digit(us))
}

func digit(n int64) byte { return '0' + byte(n%10) }

// appendText appends a member, unless its text is empty.
func appendText(dst []byte, key, text string, limit int) []byte {
	if text == "" {
		return dst
	}
	dst = append(append(dst, key...), '"')
	return append(appendEscaped(dst, cut(text, limit)), '"')
}

// cut returns what fits of text, without a rune that does not fit as a whole.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for end := limit - 1; end > limit-utf8.UTFMax; end-- {
		if _, size := utf8.DecodeRuneInString(text[end:]); end+size > limit {
			return text[:end]
		}
	}
	return text[:limit]
}

// appendEscaped appends what stands between a JSON string's quotes.
func appendEscaped(dst []byte, text string) []byte {
	plain := 0 // up to here all is appended
	for i := 0; i < len(text); {
		r, size := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(text[i:])
		}
		if !isPlain(r) {
			dst = append(dst, text[plain:i]...)
			dst = appendEscape(dst, r)
			plain = i + size
		}
		i += size
	}
	return append(dst, text[plain:]...)
}

// isPlain reports whether r may stand in a JSON string as it is.
func isPlain(r rune) bool { return r != '"' && r != '\\' && linelog.Printable(r) }

func appendEscape(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r > 0xffff: // two surrogates, as JSON wants it
		r -= 0x10000
		return appendUnit(appendUnit(dst, 0xd800|r>>10), 0xdc00|r&0x3ff)
	}
	return appendUnit(dst, r)
}

func appendUnit(dst []byte, u rune) []byte {
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', hex[u>>12&15], hex[u>>8&15], hex[u>>4&15], hex[u&15])
}
