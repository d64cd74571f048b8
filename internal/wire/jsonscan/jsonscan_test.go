package jsonscan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// wanted has members at every depth.
var wanted = Member{Members: []Member{
	{Name: "every", ID: 1},
	{Name: "first", ID: 2},
	{Name: "once", ID: 3},
	{Name: "fourth", ID: 4},
	{Name: "o", Members: []Member{
		{Name: "every", ID: 5},
		{Name: "first", ID: 6},
		{Name: "p", ID: 7, Members: []Member{{Name: "n", ID: 8}, {Name: "n2", ID: 31}}},
	}},
}}

// found is one value that a Finder returned.
type found struct {
	id   uint8
	kind Kind
	text string
}

func (f found) String() string { return fmt.Sprintf("%d:%d:%q", f.id, f.kind, f.text) }

// find passes doc to f in pieces of size bytes; 0 means all at once. It returns the values, and whether the document is
// complete.
func find(f *Finder, doc string, size int) (all []found, done bool) {
	f.Start(&wanted)
	if size <= 0 {
		size = max(len(doc), 1)
	}
	for rest := doc; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		piece := []byte(rest[:min(size, len(rest))])
		all = next(f, piece, all)
		clear(piece) // f must not keep it
	}
	return all, f.Done()
}

// next adds the values of one piece.
func next(f *Finder, piece []byte, all []found) []found {
	for p := piece; len(p) > 0; {
		id, kind, text, rest := f.Next(p)
		if (id == 0) != (kind == None || kind == Invalid) || kind > Array {
			panic(fmt.Sprintf("id %d, kind %d", id, kind))
		}
		if p = rest; id == 0 {
			continue
		}
		all = append(all, found{id, kind, string(text)})
	}
	return all
}

// decoded returns the values with the escapes of strings resolved.
func decoded(all []found) []found {
	all = slices.Clone(all)
	for i, v := range all {
		if v.kind == String {
			all[i].text = string(Unescape([]byte(v.text)))
		}
	}
	return all
}

func roomy() *Finder    { return &Finder{Room: make([]byte, 1<<12)} }
func trusting() *Finder { return &Finder{Room: make([]byte, 1<<12), Trusted: true} }

// tight is the size of a Room that cuts texts.
const tight = 8

// checkSplits reads a document as a whole, byte by byte, and split at every position.
func checkSplits(t *testing.T, make func() *Finder, doc string, want []found, wantDone bool) {
	t.Helper()
	check := func(how string, all []found, done bool) {
		t.Helper()
		if len(make().Room) > tight {
			all = decoded(all)
		}
		if done != wantDone || !slices.Equal(all, want) {
			t.Fatalf("%s: %v, done %t; want %v, %t\n%.200s", how, all, done, want, wantDone, doc)
		}
	}
	all, done := find(make(), doc, 0)
	check("whole", all, done)
	all, done = find(make(), doc, 1)
	check("in single bytes", all, done)
	for i := range doc {
		f := make()
		f.Start(&wanted)
		all := next(f, []byte(doc[i:][:0]), nil)
		all = next(f, []byte(doc[:i]), all)
		all = next(f, []byte(doc[i:]), all)
		check(fmt.Sprintf("split at %d", i), all, f.Done())
	}
}

func nested(n int) string {
	return `{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"every":1}`
}

func one(kind Kind, text string) []found { return []found{{id: 1, kind: kind, text: text}} }

func TestValid(t *testing.T) {
	for doc, want := range map[string][]found{
		`{}`:                               nil,
		" \t\r\n{ } \t\r\n":                nil,
		`{"every":"a"}`:                    one(String, "a"),
		`{"every":""}`:                     one(String, ""),
		"{ \"every\" :\n\"a\" , \"x\":{}}": one(String, "a"),
		`{"every":12,"x":0}`:               one(Number, "12"),
		`{"every":0}`:                      one(Number, "0"),
		`{"every":-0.5E+10 }`:              one(Number, "-0.5E+10"),
		`{"every":1e5}`:                    one(Number, "1e5"),
		`{"every":10.01e-0}`:               one(Number, "10.01e-0"),
		`{"every":true}`:                   one(True, ""),
		`{"every":false}`:                  one(False, ""),
		`{"every":null}`:                   one(Null, ""),
		`{"every":{"every":1}}`:            one(Object, ""),
		`{"every":[1,"every",{"every":1}],"x":1}`: one(Array, ""),
		`{"ev\u0065r\u0079":"a"}`:                 one(String, "a"),
		`{"every":"\"\\\/\b\f\n\r\t\u0041"}`:      one(String, "\"\\/\b\f\n\r\tA"),
		`{"every":"\u00e9\u20AC\uD834\udd1e𝄞"}`:   one(String, "é€𝄞𝄞"),
		`{"every":"\ud834"}`:                      one(String, "\ufffd"),
		`{"every":"\ud834x\udd1e"}`:               one(String, "\ufffdx\ufffd"),
		`{"every":"\ud834\ud834\udd1e"}`:          one(String, "\ufffd𝄞"),
		`{"every":"\ud834\n\u0041"}`:              one(String, "\ufffd\nA"),
		"{\"every\":\"\x7f\xff\xc3\u2028\"}":      one(String, "\x7f\xff\xc3\u2028"),

		`{"x":{"every":1,"o":{"every":2}},"y":[{"every":3},"every",4]}`: nil,
		`{"x":"\",\"every\":\"no","y":"\\","every":"a"}`:                one(String, "a"),
		`{"Every":1,"every ":1,"ever":1,"every\u0000":1,"":1}`:          nil,
		`{"n":1,"p":{"n":1},"o":{"n":1,"once":1,"o":{"every":1}}}`:      nil,
		`{"o":{"p":{"n":1,"n2":2},"every":3},"every":4}`:                {{8, Number, "1"}, {31, Number, "2"}, {5, Number, "3"}, {1, Number, "4"}},
		`{"o":[{"every":1}],"o":null,"o":"every","o":1,"every":2}`:      one(Number, "2"),
		`{"o":{"p":[]},"o":{"p":1},"o":{"p":{"n":1}}}`:                  {{7, Array, ""}, {7, Number, "1"}, {8, Number, "1"}},

		`{"every":1,"every":{},"every":"a"}`:                                      {{1, Number, "1"}, {1, Object, ""}, {1, String, "a"}},
		`{"first":null,"first":1,"first":{}}`:                                     {{2, Null, ""}, {2, Number, "1"}, {2, Object, ""}},
		`{"o":{"first":1},"o":{"first":2,"every":3}}`:                             {{6, Number, "1"}, {6, Number, "2"}, {5, Number, "3"}},
		`{"once":1,"o":{"once":2},"x":{"once":3,"once":4}}`:                       {{3, Number, "1"}},
		`{"fourth":"a\nb","fourth":7,"fourth":"` + strings.Repeat("é", 50) + `"}`: {{4, String, "a\nb"}, {4, Number, "7"}, {4, String, strings.Repeat("é", 50)}},

		nested(MaxDepth - 1): one(Number, "1"),
	} {
		checkSplits(t, roomy, doc, want, true)
		checkSplits(t, trusting, doc, want, true)
	}
}

// TestInvalid places a value before each error, so that the error is detected after a value was returned.
func TestInvalid(t *testing.T) {
	for _, rest := range []string{
		``, `}`, `,`, `:`, ` `, `"`, `"x"`, `"x":`, `"x":1`, `"x":}`, `"x":,"y":1}`, `"x":1,}`, `"x" 1}`, `"x":1 "y":2}`, `"x"::1}`, `x:1}`, `'x':1}`, `"x":'1'}`, `1:1}`, `"x":1]`,
		`"x":01}`, `"x":+1}`, `"x":1.}`, `"x":.5}`, `"x":1e}`, `"x":1e+}`, `"x":1.e1}`, `"x":-}`, `"x":--1}`, `"x":0x1}`, `"x":1-1}`, `"x":1a}`, `"x":-a}`, `"x":00}`, `"x":1.5.5}`, `"x":1e5e5}`, `"x":1e5.5}`, `"x":NaN}`,
		`"x":tru}`, `"x":trux}`, `"x":truex}`, `"x":True}`, `"x":t rue}`, `"x":nul`, `"x":nullnull}`, `"x":falsE}`, `"x":undefined}`,
		"\"x\":\"a\nb\"}", "\"x\":\"a\x00b\"}", "\"x\ty\":1}", `"x":"\x"}`, `"x":"\u12g4"}`, `"x":"\U1234"}`, "\"x\":\"\\u\x1100\x11\"}", `"x":"\u123"}`, `"x":"\`, `"x":"a`, "\"x\":\"\\\n\"}",
		`"x":[1,]}`, `"x":[,1]}`, `"x":[1 2]}`, `"x":[1}`, `"x":[1:2]}`, `"x":{"a":1]}`, `"x":{1}}`, `"x":[}]}`, `"x":[[]}`,
		"\"x\":1}\x00", `"x":1}}`, `"x":1},`, `"x":1}{}`, `"x":1}1`, "\ufeff\"x\":1}", "\"x\":\u00a01}", "\"x\":\v1}",
		strings.TrimPrefix(nested(MaxDepth), "{"), strings.Repeat(`"x":{`, 1000), `"x":` + strings.Repeat("[", 1000),
	} {
		checkSplits(t, roomy, `{"every":"a",`+rest, one(String, "a"), false)
	}
	for _, doc := range []string{
		``, ` `, `{`, `[]`, `[{"every":1}]`, `"every"`, `1`, `null`, `true`, "\ufeff{}", "\x00{}", `}`, `]`, `,{}`, `[DONE]`,
	} {
		checkSplits(t, roomy, doc, nil, false)
	}
}

// TestTrusted: skipped values may be of any depth, and only their end is found; values on the path are checked.
func TestTrusted(t *testing.T) {
	for doc, want := range map[string][]found{
		nested(1000): one(Number, "1"),
		`{"o":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,"every":1}`: one(Number, "1"),
		`{"x":{"a":"}]\"}]","b":["\\"],"c":"\\\""},"every":1}`:                        one(Number, "1"),
		`{"x":"` + strings.Repeat(`\\`, 9) + `\"","every":1}`:                         one(Number, "1"),
		`{"x":[1},"y":{[tru"\x"]],"every":1}`:                                         one(Number, "1"), // not checked
	} {
		checkSplits(t, trusting, doc, want, true)
	}
	for _, doc := range []string{`{"every":1,"x":tru}`, `{"every":1,"x"}`, `{"every":1 "x":1}`, `{"every":1}}`, `{"every":1,"x":[[]}`, "{\"every\":1,\"first\":\"\n\"}"} {
		checkSplits(t, trusting, doc, one(Number, "1"), false)
	}
}

// TestCut: a text that does not fit into Room is cut, regardless of how it arrives, and a cut text never equals a name.
func TestCut(t *testing.T) {
	small := func() *Finder { return &Finder{Room: make([]byte, len("every")+1)} }
	for doc, want := range map[string][]found{
		`{"every":"12345"}`:                   one(String, "12345"),
		`{"every":"1234567"}`:                 one(String, "123456"),
		`{"every":"1234é"}`:                   one(String, "1234é"),
		`{"every":"12345é"}`:                  one(String, "12345\xc3"),
		`{"every":"\u00e99","every":1234567}`: {{1, String, `\u00e9`}, {1, Number, "123456"}},
		`{"every":"ab\nc\"","every":"\""}`:    {{1, String, `ab\nc\`}, {1, String, `\"`}},
		`{"every":12345}`:                     one(Number, "12345"),
		`{"everyone":1,"every":2}`:            one(Number, "2"),
		`{"every\u0000":1,"ever\u0079":1}`:    nil,
		`{"every":"1234567","every":"1"}`:     {{1, String, "123456"}, {1, String, "1"}},
	} {
		checkSplits(t, small, doc, want, true)
	}
}

// TestWithoutRoom: every text is a part of the document; a text that cannot be is refused.
func TestWithoutRoom(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		doc  string
		want []found
		done bool
	}{
		{`{"every":"` + long + `","x":"\n","y":{"\u0078":1},"once":12}`, []found{{1, String, long}, {3, Number, "12"}}, true},
		{`{"every":"abc\ndef","once":1}`, []found{{1, String, `abc\ndef`}, {3, Number, "1"}}, true},
		{`{"every":"\u0061","once":1}`, []found{{1, String, `\u0061`}, {3, Number, "1"}}, true},
		{`{"once":1,"ever\u0079":"abc","\u0078":2}`, []found{{3, Number, "1"}, {1, String, "abc"}}, true},
	} {
		var f Finder
		f.Start(&wanted)
		doc := []byte(c.doc)
		var all []found
		for p := doc; len(p) > 0; {
			id, kind, text, rest := f.Next(p)
			if p = rest; id == 0 {
				continue
			}
			all = append(all, found{id, kind, string(text)})
			if len(text) > 0 && !inside(doc, text) {
				t.Errorf("%.40s: %q is a copy", c.doc, text)
			}
		}
		if !slices.Equal(all, c.want) || f.Done() != c.done {
			t.Errorf("%.40s: %.100v, done %t", c.doc, all, f.Done())
		}
	}
	checkSplits(t, func() *Finder { return new(Finder) }, `{}`, nil, true)
	if all, done := find(new(Finder), `{"every":"abc"}`, 1); done || len(all) > 0 {
		t.Errorf("a name in pieces: %v, done %t", all, done)
	}
}

// inside reports whether text lies within doc.
func inside(doc, text []byte) bool {
	from, at := uintptr(unsafe.Pointer(&doc[0])), uintptr(unsafe.Pointer(&text[0]))
	return from <= at && at+uintptr(len(text)) <= from+uintptr(len(doc))
}

// TestHasEscape: an escape in the value is reported, one in the name is not.
func TestHasEscape(t *testing.T) {
	for doc, want := range map[string]bool{
		`{"every":"a"}`: false, `{"ev\u0065ry":"a"}`: false, `{"x":"\n","every":"a"}`: false,
		`{"every":"\n"}`: true, `{"every":"a\u0061b"}`: true,
	} {
		f := roomy()
		f.Start(&wanted)
		if id, _, text, _ := f.Next([]byte(doc)); id != 1 || HasEscape(text) != want {
			t.Errorf("%s: id %d, %q", doc, id, text)
		}
	}
}

// TestPlainNames: an escape in a name on the path makes a document invalid, also behind what Room holds; one elsewhere
// does not.
func TestPlainNames(t *testing.T) {
	plain := func() *Finder { return &Finder{Room: make([]byte, tight), PlainNames: true} }
	checkSplits(t, plain, `{"x":[{"\u0061":"\n"}],"every":1}`, one(Number, "1"), true)
	for _, name := range []string{`\u0078`, `ever\u0079`, strings.Repeat("x", 20) + `\n`} {
		checkSplits(t, plain, `{"every":1,"`+name+`":2}`, one(Number, "1"), false)
		checkSplits(t, plain, `{"every":1,"o":{"`+name+`":2}}`, one(Number, "1"), false)
	}
}

func TestNoAllocations(t *testing.T) {
	doc := []byte(`{"x":[1,{"a":"\n"}],"every":"a\u0061","o":{"p":{"n":12345}},"fourth":"abc"}`)
	for _, f := range []*Finder{roomy(), trusting(), {}} {
		if n := testing.AllocsPerRun(100, func() {
			f.Start(&wanted)
			for p := doc; len(p) > 0; {
				_, _, _, p = f.Next(p)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// TestSize: a Finder is small, whatever it reads.
func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(Finder{}); n > 128 {
		t.Errorf("a Finder takes %d bytes", n)
	}
}
