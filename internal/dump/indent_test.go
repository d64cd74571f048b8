package dump

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// indent runs an indenter over text, split at every multiple of step.
func indent(text []byte, step int) ([]byte, error) {
	var out []byte
	s := newSink(make([]byte, 0, 16), func(p []byte, _ int64) error {
		out = append(out, p...)
		return nil
	})
	j := indenter{out: s}
	for len(text) > 0 {
		n := min(step, len(text))
		if err := j.write(text[:n]); err != nil {
			return nil, err
		}
		text = text[n:]
	}
	if err := j.close(); err != nil {
		return nil, err
	}
	return out, s.flush()
}

func TestIndent(t *testing.T) {
	is := func(text string) { t.Helper(); checkIndent(t, []byte(text), 1, true) }
	not := func(text string) { t.Helper(); checkIndent(t, []byte(text), 1, false) }

	is(`{}`)
	is(` [ ] `)
	is("\t{ \"b\" : 1 ,\r\n\"a\":[1,2,{}],\"b\":{\"c\":[[]]}}\n")
	is(`"a\"\\\/\b\f\n\r\t\u00e9\uD800 grüße 😀"`)
	is(`-0`)
	is(`0`)
	is(`10`)
	is(`[0,-0,1.50,1e3,1E+03,-1.0e-400,123456789012345678901234567890]`)
	is(`[true,false,null]`)
	is(strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth))
	is(strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth))

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
	not(strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1))
}

// checkIndent holds the indenter to encoding/json.
func checkIndent(t *testing.T, text []byte, step int, want bool) {
	t.Helper()
	got, err := indent(text, step)
	if (err == nil) != want {
		t.Fatalf("%q: %v", text, err)
	}
	if err != nil {
		return
	}
	var oracle bytes.Buffer
	if err := json.Indent(&oracle, bytes.TrimSpace(text), "  ", "  "); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, oracle.Bytes()) {
		t.Errorf("%q:\n%s\nwant:\n%s", text, got, &oracle)
	}
}

// FuzzIndent: an indenter takes what encoding/json takes, if it is UTF-8 and not
// nested too deep, and makes the same of it, wherever it is split.
func FuzzIndent(f *testing.F) {
	f.Add([]byte(`{"model":"gpt","input":[{"a":1.50e+3,"b":"\u00e9é\ud800"}],"x":[[],{}]}`), 3)
	f.Add([]byte(" [true , false,null,-0.1E-2] "), 1)
	f.Add([]byte("\"\xe2\x82\xac\xff\""), 2)
	f.Fuzz(func(t *testing.T, text []byte, step int) {
		want := json.Valid(text) && utf8.Valid(text) && depth(text) <= maxDepth
		checkIndent(t, text, max(1, step), want)
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
