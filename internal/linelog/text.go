package linelog

import (
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// AppendText appends text so that it stays on its line and cannot steer a terminal: what is not [Printable] becomes an
// escape sequence as in a Go string, such as \n or \x1b. It appends about limit bytes at most, and says how many bytes
// of text are missing then.
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
			quoted := strconv.Quote(text[i : i+size]) // which distinguishes U+FFFD from invalid UTF-8
			dst = append(dst, quoted[1:len(quoted)-1]...)
		}
		i += size
	}
	return dst
}

// Printable reports whether r may stand in a line as it is: what Unicode calls printable, and neither a control
// character, nor a format character, nor unassigned. U+FFFD may have been invalid UTF-8.
func Printable(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }
