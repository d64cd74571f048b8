package linelog

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxText    = 2000 // bytes of a message or of an attribute's value
	timeFormat = "2006-01-02T15:04:05.000Z07:00"
)

// NewHandler returns a handler that writes records to l, one line each, and never blocks. As text that is time, level,
// message, and each attribute as key=value, with Go's quotes around a value that is more than a word; asJSON is
// slog's JSON. In both, times are in UTC, texts are cut, and what is not [Printable] is escaped. Groups are not shown.
func NewHandler(l *Log, asJSON bool) slog.Handler {
	if asJSON {
		return slog.NewJSONHandler(l, &slog.HandlerOptions{ReplaceAttr: printableAttr})
	}
	return &textHandler{log: l}
}

func printableAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindTime:
		a.Value = slog.StringValue(a.Value.Time().UTC().Format(timeFormat))
	case slog.KindString, slog.KindAny, slog.KindDuration:
		a.Value = slog.StringValue(string(AppendText(nil, a.Value.String(), maxText)))
	}
	return a
}

type textHandler struct {
	log   *Log
	attrs []byte // of WithAttrs, as they are written
}

func (h *textHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	b := r.Time.UTC().AppendFormat(nil, timeFormat)
	b = append(append(append(b, ' '), r.Level.String()...), ' ')
	b = append(AppendText(b, r.Message, maxText), h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		b = appendAttr(b, a)
		return true
	})
	h.log.Write(append(b, '\n'))
	return nil
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := &textHandler{h.log, slices.Clone(h.attrs)}
	for _, a := range attrs {
		with.attrs = appendAttr(with.attrs, a)
	}
	return with
}

func (h *textHandler) WithGroup(string) slog.Handler { return h }

// appendAttr quotes a value that could be taken for something else than one value.
func appendAttr(dst []byte, a slog.Attr) []byte {
	text, more := a.Value.Resolve().String(), ""
	if n := len(text) - maxText; n > 0 {
		text, more = text[:maxText], fmt.Sprintf("... (%d more bytes)", n)
	}
	dst = append(append(append(dst, ' '), a.Key...), '=')
	isWord := text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return r == ' ' || r == '"' || r == '=' || r == '\\' || !Printable(r)
	})
	if isWord {
		dst = append(dst, text...)
	} else {
		dst = strconv.AppendQuote(dst, text)
	}
	return append(dst, more...)
}

// AppendText appends text such that it stays on one line and cannot control a terminal: characters that are not
// [Printable] are appended as escape sequences of a Go string, such as \n or \x1b. It appends about limit bytes at
// most, and then the number of bytes that were omitted.
func AppendText(dst []byte, text string, limit int) []byte {
	begin := len(dst)
	for i := 0; i < len(text); {
		if len(dst)-begin >= limit {
			return fmt.Appendf(dst, "... (%d more bytes)", len(text)-i)
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		if Printable(r) {
			dst = append(dst, text[i:i+size]...)
		} else {
			quoted := strconv.Quote(text[i : i+size]) // distinguishes U+FFFD from invalid UTF-8
			dst = append(dst, quoted[1:len(quoted)-1]...)
		}
		i += size
	}
	return dst
}

// Printable reports whether r can be appended unchanged: printable as defined by Unicode, and neither a control
// character nor a format character nor unassigned. U+FFFD is not, since it may be invalid UTF-8.
func Printable(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }
