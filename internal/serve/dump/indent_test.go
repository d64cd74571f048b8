package dump

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestIndent(t *testing.T) {
	is := func(text string) { t.Helper(); checkIndent(t, []byte(text), true) }
	not := func(text string) { t.Helper(); checkIndent(t, []byte(text), false) }

	is(`{}`)
	is(` [ ] `)
	is("\t{ \"b\" : 1 ,\r\n\"a\":[1,2,{}],\"b\":{\"c\":[[]]}}\n")
	is(`"a\"\\\/\b\f\n\r\t\u00e9\uD800 grüße 😀"`)
	is(`-0`)
	is(`0`)
	is(`10`)
	is(`[0,-0,1.50,1e3,1E+03,-1.0e-400,123456789012345678901234567890]`)
	is(`[true,false,null]`)
	long := `"` + strings.Repeat("a", 10_000) + `"` // to leave room for the indentation
	is(strings.Repeat("[", maxDepth) + long + strings.Repeat("]", maxDepth))
	is(strings.Repeat(`{"a":`, maxDepth) + long + strings.Repeat("}", maxDepth))

	not(``)
	not(` `)
	not(`{`)
	not(`}`)
	not(`[}`)
	not(`[1}`)
	not(`[1,]`)
	not(`{"a":1,}`)
	not(`{"a"}`)
	not(`{"a":}`)
	not(`{"a" 1}`)
	not(`{1:1}`)
	not(`{,}`)
	not(`1 2`)
	not(`{}{}`)
	not(`01`)
	not(`1d`)
	not(`-d`)
	not(`-`)
	not(`+1`)
	not(`.5`)
	not(`1.`)
	not(`1.e3`)
	not(`1e`)
	not(`1e+`)
	not(`0x1`)
	not(`NaN`)
	not(`tru`)
	not(`truee`)
	not(`nulL`)
	not(`"a`)
	not(`"\x"`)
	not(`"\u12g4"`)
	not("\"a\nb\"")
	not("\"\x00\"")
	not("\"\xff\"")
	not("\"\xc0\x80\"")
	not("\"\xe0\x80\x80\"")
	not("\"\xed\xa0\x80\"")
	not("\"\xf4\x90\x80\x80\"")
	not("\"\xe2\x82\"")
	not("\ufeff{}")
	not("event: x\ndata: {}\n\n")
	not(strings.Repeat("[", maxDepth+1) + long + strings.Repeat("]", maxDepth+1))
	not(strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)) // it would grow too much
	not(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000))
}

// checkIndent checks whether text is dumped as JSON, and that no more is allocated than needed.
func checkIndent(t *testing.T, text []byte, want bool) {
	t.Helper()
	got, ok := indent(text)
	if ok != want {
		t.Fatalf("%q: %t", text, ok)
	}
	if !ok {
		return
	}
	var oracle, before, after bytes.Buffer
	if err := json.Indent(&oracle, bytes.TrimSpace(text), "  ", "  "); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, oracle.Bytes()) {
		t.Errorf("%q:\n%s\nwant:\n%s", text, got, &oracle)
	}
	if json.Compact(&before, text) != nil || json.Compact(&after, got) != nil || !bytes.Equal(before.Bytes(), after.Bytes()) {
		t.Errorf("%q became another value: %s", text, got)
	}
	if d, size := measure(bytes.TrimSpace(text)); d != depth(text) || size < len(got) || size > 8*len(text)+4096 {
		t.Errorf("%q: depth %d, want %d; %d bytes, measured as %d", text, d, depth(text), len(got), size)
	}
}

// FuzzIndent: what is dumped as JSON is what encoding/json accepts, if it is UTF-8, not nested too deeply, and does not
// grow too much.
func FuzzIndent(f *testing.F) {
	f.Add([]byte(`{"model":"gpt","input":[{"a":1.50e+3,"b":"\u00e9é\ud800"}],"x":[[],{}]}`))
	f.Add([]byte(" [true , false,null,-0.1E-2] "))
	f.Add([]byte("\"\xe2\x82\xac\xff\""))
	f.Add([]byte(strings.Repeat("[", 100) + strings.Repeat("1,", 1000) + "1" + strings.Repeat("]", 100)))
	f.Fuzz(func(t *testing.T, text []byte) {
		valid := json.Valid(text) && utf8.Valid(text)
		if !valid || depth(text) > maxDepth || len(text) < 100 {
			checkIndent(t, text, valid && depth(text) <= maxDepth)
			return
		}
		if _, size := measure(bytes.TrimSpace(text)); size > maxGrowth*len(bytes.TrimSpace(text))+4096 {
			checkIndent(t, text, false)
			return
		}
		checkIndent(t, text, true)
	})
}

func depth(text []byte) (deepest int) {
	d := json.NewDecoder(bytes.NewReader(text))
	for open := 0; ; {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			open++
			deepest = max(deepest, open)
		case json.Delim(']'), json.Delim('}'):
			open--
		}
	}
}
