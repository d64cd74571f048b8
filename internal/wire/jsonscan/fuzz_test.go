package jsonscan

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
)

// member is a member of an object, or a nameless element of an array, as encoding/json decodes it. Objects and arrays
// are lists, because names may repeat.
type member struct {
	name  string
	value any
}

type object []member
type array []member

// decode returns the next value of d, and the depth of its objects and arrays.
func decode(d *json.Decoder) (value any, depth int) {
	t, err := d.Token()
	if err != nil {
		panic(err)
	}
	open, _ := t.(json.Delim)
	if open == 0 {
		return t, 0
	}
	var all []member
	for d.More() {
		var m member
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				panic(err)
			}
			m.name = name.(string)
		}
		var n int
		m.value, n = decode(d)
		depth = max(depth, n)
		all = append(all, m)
	}
	d.Token()
	if open == '{' {
		return object(all), depth + 1
	}
	return array(all), depth + 1
}

// reference returns what a Finder must find in doc. ok is false if it must refuse doc; all then ignores where the error
// is.
func reference(doc []byte) (all []found, ok bool) {
	if !json.Valid(doc) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	value, depth := decode(d)
	o, ok := value.(object)
	if !ok || depth > MaxDepth {
		return nil, false
	}
	return refer(o, wanted.Members, nil), true
}

func refer(o object, members []Member, all []found) []found {
	for _, m := range o {
		at := slices.IndexFunc(members, func(w Member) bool { return w.Name == m.name })
		if at < 0 {
			continue
		}
		w := members[at]
		if inner, is := m.value.(object); is && w.Members != nil {
			all = refer(inner, w.Members, all)
			continue
		}
		if w.ID > 0 {
			all = append(all, valueOf(w.ID, m.value))
		}
	}
	return all
}

func valueOf(id uint8, value any) found {
	switch v := value.(type) {
	case string:
		return found{id: id, kind: String, text: v}
	case json.Number:
		return found{id: id, kind: Number, text: v.String()}
	case bool:
		if v {
			return found{id: id, kind: True}
		}
		return found{id: id, kind: False}
	case object:
		return found{id: id, kind: Object}
	case array:
		return found{id: id, kind: Array}
	}
	return found{id: id, kind: Null}
}

// asUTF8 converts texts as encoding/json converts invalid UTF-8.
func asUTF8(all []found) []found {
	for i := range all {
		all[i].text = string([]rune(all[i].text))
	}
	return all
}

// FuzzFinder compares a Finder with encoding/json, for every split of the document;
// an invalid document is never done. With Trusted the result is the same for a valid document.
func FuzzFinder(f *testing.F) {
	for _, doc := range []string{
		`{"every":1,"every":"a","first":[],"first":2,"once":null,"fourth":"\u00e9\ud834\udd1e","o":{"p":{"n":-1.5e+3}}}`,
		`{"once":1,"x":{"once":2},"once":3}`, `{"o":{"every":1},"o":{"every":2},"o":7}`, "{\"every\":\"\xff\\ud834\"}", `[{"every":1}]`, `{"every":1}}`,
		`{"x":"\",\"every\":1","ever\u0079":[{"o":1}],"o":{"p":[]}}`, `{"every":01}`, `{"every":tru}`, nested(MaxDepth), nested(MaxDepth - 1), `{"every":"a` + "\n" + `"}`,
	} {
		f.Add([]byte(doc), uint8(3), uint8(5))
	}
	f.Fuzz(func(t *testing.T, doc []byte, size, room uint8) {
		want, ok := reference(doc)
		var first []found
		for i, n := range []int{0, 1, int(size)} {
			all, done := find(&Finder{Room: make([]byte, len(doc)+8)}, string(doc), n)
			all = asUTF8(decoded(all))
			if done != ok || ok && !slices.Equal(all, want) {
				t.Fatalf("in pieces of %d: %v, done %t; want %v, %t", n, all, done, want, ok)
			}
			if i == 0 {
				first = all
			} else if !slices.Equal(all, first) {
				t.Fatalf("in pieces of %d: %v, whole %v", n, all, first)
			}
			checkTrusted(t, doc, n, all, ok)
			checkCut(t, doc, n, int(room), ok)
		}
	})
}

func checkTrusted(t *testing.T, doc []byte, size int, want []found, ok bool) {
	all, done := find(&Finder{Room: make([]byte, len(doc)+8), Trusted: true}, string(doc), size)
	if ok && (!done || !slices.Equal(asUTF8(decoded(all)), want)) {
		t.Fatalf("trusted, in pieces of %d: %v, done %t; want %v", size, all, done, want)
	}
}

// checkCut compares a Finder with a small Room to one with enough.
func checkCut(t *testing.T, doc []byte, size, room int, ok bool) {
	const longest = len(`\u0066`) * len("fourth") // in escapes
	room += longest + 1
	want, _ := find(&Finder{Room: make([]byte, len(doc)+8)}, string(doc), size)
	all, done := find(&Finder{Room: make([]byte, room)}, string(doc), size)
	if done != ok || len(all) != len(want) {
		t.Fatalf("with room for %d: %v, done %t; want %v, %t", room, all, done, want, ok)
	}
	for i := range want {
		w := want[i]
		w.text = w.text[:min(len(w.text), room)]
		if all[i] != w {
			t.Fatalf("with room for %d: %v, want %v", room, all[i], w)
		}
	}
}

// FuzzInPlace: without Room each text is a part of the document, and what encoding/json decodes.
func FuzzInPlace(f *testing.F) {
	f.Add([]byte(`{"every":"abc","first":1,"x":{"\u0061":"\n"}}`))
	f.Add([]byte(`{"every":"a\u0062c","first":1}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		before := bytes.Clone(doc)
		var f Finder
		f.Start(&wanted)
		var all []found
		for p := doc; len(p) > 0; {
			id, kind, text, rest := f.Next(p)
			if p = rest; id == 0 {
				continue
			}
			if len(text) > 0 && !inside(doc, text) {
				t.Fatalf("%q is a copy", text)
			}
			all = append(all, found{id, kind, string(text)})
		}
		if !bytes.Equal(before, doc) {
			t.Fatal("the document has changed")
		}
		want, ok := reference(doc)
		if f.Done() != ok {
			t.Fatalf("done %t, valid %t", f.Done(), ok)
		}
		if all = asUTF8(decoded(all)); ok && !slices.Equal(all, want) {
			t.Fatalf("%v, want %v", all, want)
		}
	})
}

// FuzzTokens compares every token of a document with encoding/json's.
func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"a":[1,-2.5e+3,{"b":"\ud83d\ude00","y":[[],{}]}],"":true,"c":false,"d":null}`), uint8(2))
	f.Add([]byte(`{"\ud83d":"\ude00\ud83d\ud83d\ude00","a\/b":"é`+"\xff"+`"}`), uint8(1))
	f.Fuzz(func(t *testing.T, doc []byte, size uint8) {
		all := tokens(doc, max(int(size), 1))
		if all == nil {
			return // FuzzFinder covers invalid documents
		}
		d := json.NewDecoder(bytes.NewReader(doc))
		d.UseNumber()
		for _, got := range all {
			want, err := d.Token()
			if err != nil || got != want {
				t.Fatalf("%v, want %v, %v", got, want, err)
			}
		}
		if _, err := d.Token(); err != io.EOF {
			t.Fatalf("encoding/json goes on: %v", err)
		}
	})
}

// tokens returns the tokens as encoding/json represents them, or nil for an invalid document.
func tokens(doc []byte, size int) (all []json.Token) {
	var s scanner
	var text strings.Builder
	for ; len(doc) > 0; doc = doc[min(size, len(doc)):] {
		for p := doc[:min(size, len(doc))]; len(p) > 0; {
			kind, piece, rest := s.next(p)
			p = rest
			text.Write(piece)
			whole := text.String()
			switch kind {
			case None, part:
				continue
			case String, name:
				all = append(all, string([]rune(string(Unescape([]byte(whole))))))
			case Number:
				all = append(all, json.Number(whole))
			case Invalid:
				return nil
			default:
				all = append(all, map[Kind]json.Token{
					True: true, False: false, Null: nil, Object: json.Delim('{'), Array: json.Delim('['), endObject: json.Delim('}'), endArray: json.Delim(']'),
				}[kind])
			}
			text.Reset()
		}
	}
	if s.state != done {
		return nil
	}
	return all
}

// FuzzPlainLength compares reading eight bytes at a time with one at a time.
func FuzzPlainLength(f *testing.F) {
	f.Add([]byte("abcdefgh\x1f\x20!\"#[\\]\x7f\x80\xff"))
	f.Add([]byte("\xa0\xa2\xdc\x9f\x21\x23\x5b\x5d\x20\x22"))
	f.Fuzz(func(t *testing.T, p []byte) {
		for from := range p {
			want := bytes.IndexFunc(p[from:], func(r rune) bool { return r == '"' || r == '\\' || r < ' ' })
			if want < 0 {
				want = len(p) - from
			}
			if got := plainLength(p[from:]); got != want {
				t.Fatalf("%q: %d, want %d", p[from:], got, want)
			}
		}
	})
}
