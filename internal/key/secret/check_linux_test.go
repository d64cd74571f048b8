package secret

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
)

// shapes are the keys that each field, and a token, accepts.
var shapes = []struct {
	key                     string
	bearer, apiKey, asToken bool
}{
	{key16, true, true, true},
	{"a.b.c", true, false, true},
	{"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.MEUCIQ-_", true, false, true},
	{"a.b", false, false, true},
	{"a.b.c.d", false, false, true},
	{"a.b.c.", false, false, true},
	{"a..c", false, false, true},
	{".b.c", false, false, true},
	{"a.b.", false, false, true},
	{"...", false, false, true},
	{"a.b.c=", false, false, true},
	{"a.b/.c", false, false, true},
	{"ab/+=~!", false, false, true},
	{"a b", false, false, false},
	{"a\tb", false, false, false},
	{"a.b.c ", false, false, false},
	{"a\x7f", false, false, false},
	{"a\u00e9", false, false, false},
	{"a\x00.b.c", false, false, false},
	{"", false, false, false},
}

func TestShapes(t *testing.T) {
	for _, s := range shapes {
		for cfg, want := range map[Config]bool{
			{}:                           s.bearer,
			{Header: APIKey}:             s.apiKey,
			{Header: XAPIKey}:            s.apiKey,
			{Token: true}:                s.asToken,
			{Token: true, NoSlots: true}: s.asToken,
		} {
			k, err := Read(pipeOf(t, s.key+"\n"), cfg)
			if (err == nil) != want {
				t.Errorf("%+v, %q: %v", cfg, s.key, err)
			}
			if err == nil {
				unmapLater(t, memoryOf(k))
				if got := lineOf(t, k); got != cfg.Header.prefix()+s.key+"\r\n" {
					t.Errorf("%+v: line %q", cfg, got)
				}
			}
		}
	}
}

// longestToken is the length of the longest token, by Config.NoSlots.
var longestToken = map[bool]int{false: MaxSlotToken, true: MaxToken}

func TestLongestToken(t *testing.T) {
	if k, err := New(Config{Header: 3}); err == nil || k != nil {
		t.Error("an unknown header was accepted")
	}
	for _, cfg := range []Config{{Token: true}, {Token: true, NoSlots: true}, {Token: true, Spare: true}} {
		longest := longestToken[cfg.NoSlots]
		k, err := Read(pipeOf(t, keyOf(longest)), cfg)
		if err != nil {
			t.Fatalf("%+v: %v", cfg, err)
		}
		unmapLater(t, memoryOf(k))
		if k.Len() != len(prefix)+longest+2 || k.MaxLen() != k.Len() {
			t.Errorf("%+v: Len %d, MaxLen %d", cfg, k.Len(), k.MaxLen())
		}
		for in, want := range map[string]error{keyOf(longest + 1): ErrTooLong, "": ErrEmpty, "\xff": ErrBadBytes} {
			_, err := Read(pipeOf(t, in), cfg)
			if !errors.Is(err, want) || strings.Contains(err.Error(), "API key") {
				t.Errorf("%+v, %d bytes: %v", cfg, len(in), err)
			}
		}
	}
}

// TestMistakes: the error of a malformed key names the part to leave out and contains nothing of the key.
func TestMistakes(t *testing.T) {
	for in, want := range map[string]string{
		"\ufeff" + key16:                 "; pipe in the bare key, without the byte-order mark before it",
		"Bearer " + key16:                "; pipe in the bare key, without 'Bearer' before it",
		"bearer " + key16 + " ":          "; pipe in the bare key, without 'Bearer' before it",
		"OPENAI_API_KEY=" + key16:        "; pipe in the bare key, without the name and '=' before it",
		"export OPENAI_API_KEY=" + key16: "; pipe in the bare key, without the name and '=' before it",
		`"` + key16 + `"`:                "; pipe in the bare key, without the quotes around it",
		"'" + key16 + "'\n":              "; pipe in the bare key, without the quotes around it",
		key16 + " \r\n":                  "; pipe in the bare key, without the space before, in or after it",
		key16 + "\t":                     "; pipe in the bare key, without the space before, in or after it",
		" " + key16:                      "; pipe in the bare key, without the space before, in or after it",
		"\t" + key16 + " ":               "; pipe in the bare key, without the space before, in or after it",
		"sk " + key16:                    "; pipe in the bare key, without the space before, in or after it",
		key16 + "=":                      "; pipe in the bare key, without any other character",
		key16 + "\x00":                   "; pipe in the bare key, without its NUL bytes (is it UTF-16?)",
		"\xff\xfes\x00k\x00\r\x00\n\x00": "; pipe in the bare key, without its NUL bytes (is it UTF-16?)",
		"sk\u00e9" + key16:               "; pipe in the bare key, without characters that are not ASCII",
		"\u201c" + key16 + "\u201d":      "; pipe in the bare key, without characters that are not ASCII",
	} {
		want = "the API key on standard input has characters other than ASCII letters, digits, '-' and '_'" + want
		if _, err := Read(pipeOf(t, in), Config{}); !errors.Is(err, ErrBadBytes) || err.Error() != want {
			t.Errorf("%q: %v; want %s", in, err, want)
		}
	}
	for in, want := range map[string]string{
		"\n":        "nothing was typed; start the proxy again, paste what it asks for and press Enter",
		key16 + " ": "what was typed has characters other than ASCII letters, digits, '-' and '_'; paste the bare key, without the space before, in or after it",
	} {
		if _, err := Read(pipeOf(t, in), Config{Terminal: true}); err == nil || err.Error() != want {
			t.Errorf("typed %q: %v; want %s", in, err, want)
		}
	}
	_, err := Read(pipeOf(t, "Bearer a/b"), Config{Token: true})
	want := "the token on standard input has characters other than visible ASCII; pipe in the bare token, without 'Bearer' before it"
	if !errors.Is(err, ErrBadBytes) || err.Error() != want {
		t.Errorf("%v; want %s", err, want)
	}
}

// TestRoomForTheRequestLine: beside the longest token, a slot has the space that MaxSlotToken promises.
func TestRoomForTheRequestLine(t *testing.T) {
	k, err := New(Config{Token: true, Spare: true})
	if err != nil {
		t.Fatal(err)
	}
	unmapLater(t, memoryOf(k))
	if left := SlotSize - 1 - k.MaxLen(); left < 999 {
		t.Errorf("%d bytes are left beside the key", left)
	}
}

var (
	wholeToken = regexp.MustCompile(`^[!-~]+$`)
	wholeJWT   = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)
)

// mayBeKey is the reference for check.
func mayBeKey(key string, cfg Config) bool {
	switch {
	case cfg.Token:
		return len(key) <= longestToken[cfg.NoSlots] && wholeToken.MatchString(key)
	case len(key) > MaxKey:
		return false
	default:
		return wholeKey.MatchString(key) || cfg.Header == Bearer && wholeJWT.MatchString(key)
	}
}

// FuzzValidate: validate accepts the first line of an input exactly if the reference does, and changes nothing.
func FuzzValidate(f *testing.F) {
	for _, s := range shapes {
		f.Add([]byte(s.key), uint8(0), uint8(0))
		f.Add([]byte(s.key+"\r\nrest"), uint8(1), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, header, token uint8) {
		cfg := Config{Header: Header(header % 3), Token: token&1 != 0, NoSlots: token&2 != 0}
		input := make([]byte, cfg.maxLen()+1)
		n := copy(input, in)
		before := bytes.Clone(input)
		length, err := cfg.validate(input, n)
		line, _, ended := strings.Cut(string(input[:n]), "\n")
		want := (ended || n < len(input)) && mayBeKey(strings.TrimRight(line, "\r"), cfg)
		if (err == nil) != want {
			t.Fatalf("%+v, %q: %v", cfg, input[:n], err)
		}
		if err == nil && string(input[:length]) != strings.TrimRight(line, "\r") {
			t.Errorf("%+v, %q: length %d", cfg, input[:n], length)
		}
		if err != nil && err != ErrEmpty && err != ErrTooLong && err != ErrBadBytes {
			t.Errorf("error %v", err)
		}
		if !bytes.Equal(input, before) {
			t.Error("the input was changed")
		}
	})
}
