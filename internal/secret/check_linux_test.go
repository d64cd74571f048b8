package secret

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
)

// shapes is which keys go into which field, and as a token.
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
			{}:                              s.bearer,
			{Header: APIKey}:                s.apiKey,
			{Header: XAPIKey}:               s.apiKey,
			{Room: 100}:                     s.asToken,
			{Room: MaxToken, NoSlots: true}: s.asToken,
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

func TestRoom(t *testing.T) {
	for _, cfg := range []Config{{Room: -1}, {Room: MaxRoom + 1}, {Room: MaxToken + 1, NoSlots: true}, {Header: 3}} {
		if k, err := New(cfg); err == nil || k != nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	for _, cfg := range []Config{{Room: 1}, {Room: MaxRoom}, {Room: MaxToken, NoSlots: true}, {Room: 4096, Spare: true}} {
		k, err := Read(pipeOf(t, keyOf(cfg.Room)), cfg)
		if err != nil {
			t.Fatalf("%+v: %v", cfg, err)
		}
		unmapLater(t, memoryOf(k))
		if k.Len() != len(prefix)+cfg.Room+2 || k.MaxLen() != k.Len() {
			t.Errorf("%+v: Len %d, MaxLen %d", cfg, k.Len(), k.MaxLen())
		}
		for in, want := range map[string]error{keyOf(cfg.Room + 1): ErrTooLong, "": ErrEmpty, "\xff": ErrBadBytes} {
			_, err := Read(pipeOf(t, in), cfg)
			if !errors.Is(err, want) || strings.Contains(err.Error(), "API key") {
				t.Errorf("%+v, %d bytes: %v", cfg, len(in), err)
			}
		}
	}
}

// The largest slot-borne token leaves what MaxRoom promises.
func TestRoomForTheRequestLine(t *testing.T) {
	k, err := New(Config{Room: MaxRoom})
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

// mayBeKey says in the plainest way what check must find.
func mayBeKey(key string, cfg Config) bool {
	switch {
	case cfg.Room > 0:
		return len(key) <= cfg.Room && wholeToken.MatchString(key)
	case len(key) > MaxKey:
		return false
	default:
		return wholeKey.MatchString(key) || cfg.Header == Bearer && wholeJWT.MatchString(key)
	}
}

// FuzzValidate: the first line of any input is a key exactly if the reference
// says so, and validate changes nothing.
func FuzzValidate(f *testing.F) {
	for _, s := range shapes {
		f.Add([]byte(s.key), uint8(0), uint16(0))
		f.Add([]byte(s.key+"\r\nrest"), uint8(1), uint16(9))
	}
	f.Fuzz(func(t *testing.T, in []byte, header uint8, room uint16) {
		cfg := Config{Header: Header(header % 3), Room: int(room) % MaxRoom}
		rules, err := cfg.rules()
		if err != nil {
			t.Fatal(err)
		}
		input := make([]byte, rules.max+1)
		n := copy(input, in)
		before := bytes.Clone(input)
		length, err := rules.validate(input, n)
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
