package linelog

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestAppendText(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", `gpt-5 <é> 日本 𝄞 "a\b"`, `gpt-5 <é> 日本 𝄞 "a\b"`},
		{"a line", "a\nresponses-api-proxy: forged\r\t\x00", `a\nresponses-api-proxy: forged\r\t\x00`},
		{"a terminal's commands", "\x1b]0;title\a\x1b[2J\x7f\u0080\u009b", `\x1b]0;title\a\x1b[2J\x7f\u0080\u009b`},
		{"line separators", "\u2028\u2029\u0085", `\u2028\u2029\u0085`},
		{"marks of direction", "\u202e\u2066", `\u202e\u2066`},
		{"what cannot be seen", "\u00a0\u00ad\u200b\ufeff\U000e0041", `\u00a0\u00ad\u200b\ufeff\U000e0041`},
		{"not UTF-8", "a\xff\xc3\xed\xa0\x80b", `a\xff\xc3\xed\xa0\x80b`},
		{"the replacement itself", "\ufffd", "\ufffd"},
	} {
		if got := string(AppendText([]byte("before "), c.text, 100)); got != "before "+c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := string(AppendText([]byte("before "), strings.Repeat("é", 100), 10)); got != "before ééééé... (190 more bytes)" {
		t.Errorf("%q", got)
	}
}

// FuzzAppendText: any text becomes one printable line of limited length.
func FuzzAppendText(f *testing.F) {
	f.Add("a.example\nresponses-api-proxy: protections: forged\x1b[2J", 2000)
	f.Add("\xff\u202e𝄞", 3)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = int(uint(limit) % 4096)
		got := string(AppendText(nil, text, limit))
		if !utf8.ValidString(got) {
			t.Fatalf("%q is no UTF-8", got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %q", got, r)
			}
		}
		if len(got) > limit+len(`\U000e0041... (9223372036854775807 more bytes)`) {
			t.Fatalf("%d bytes, with a limit of %d", len(got), limit)
		}
	})
}
