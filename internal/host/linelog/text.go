package linelog

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"
)

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
