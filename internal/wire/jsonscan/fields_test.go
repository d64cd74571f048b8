package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/jsonscan"
)

// documents are texts with the result of Fields: the string at "s" and the number at "n", or an error.
var documents = []struct {
	doc  string
	ok   bool
	s, n string
}{
	{`{}`, true, "", ""},
	{`{"s":"abc","n":12}`, true, "abc", "12"},
	{" \t\r\n{ \"n\" : 0 , \"s\" : \"\" } \n", true, "", "0"},
	{`{"x":[1,-2.5e+3,{"s":"inner","y":[[],{}]}],"s":"outer","z":null,"t":true,"f":false}`, true, "outer", ""},
	{`{"x":"\"s\":\"inner\"","s":"a/b+c=~.-_"}`, true, "a/b+c=~.-_", ""},
	{`{"x":"\ud83d\ude00\b\f\n\r\t\/\\","s":"é"}`, true, "é", ""},
	{`{"S":"capital"}`, true, "", ""},
	{`{"n":-1}`, true, "", "-1"},
	{`{"n":1e3}`, true, "", "1e3"},
	{`{"n":1.5}`, true, "", "1.5"},

	{``, false, "", ""},
	{`null`, false, "", ""},
	{`[{"s":"abc"}]`, false, "", ""},
	{`"s"`, false, "", ""},
	{`{"s":"abc"`, false, "", ""},
	{`{"s":"abc"}}`, false, "", ""},
	{`{"s":"abc"} x`, false, "", ""},
	{`{"s":"abc",}`, false, "", ""},
	{`{,"s":"abc"}`, false, "", ""},
	{`{"s" "abc"}`, false, "", ""},
	{`{s:"abc"}`, false, "", ""},
	{`{'s':'abc'}`, false, "", ""},
	{`{"s":"abc","s":"abc"}`, false, "", ""},
	{`{"s":"abc","\u0073":"abc"}`, false, "", ""},
	{`{"n":1,"n":1}`, false, "", ""},
	{`{"s":"a\u0062c"}`, false, "", ""},
	{`{"s":"a\/c"}`, false, "", ""},
	{`{"\u0073":"abc"}`, false, "", ""},
	{`{"s":null}`, false, "", ""},
	{`{"s":1}`, false, "", ""},
	{`{"s":["abc"]}`, false, "", ""},
	{`{"n":"1"}`, false, "", ""},
	{`{"n":true}`, false, "", ""},
	{`{"n":01}`, false, "", ""},
	{`{"n":+1}`, false, "", ""},
	{`{"n":1.}`, false, "", ""},
	{`{"n":.5}`, false, "", ""},
	{`{"n":1e}`, false, "", ""},
	{`{"n":-}`, false, "", ""},
	{`{"n":0x10}`, false, "", ""},
	{"{\"s\":\"a\nb\"}", false, "", ""},
	{"{\"s\":\"a\x00b\"}", false, "", ""},
	{`{"x":"\x"}`, false, "", ""},
	{`{"x":"\u12g4"}`, false, "", ""},
	{"{\"x\":\"\\u\x1100\x11\"}", false, "", ""},
	{`{"x":"\`, false, "", ""},
	{`{"x":"\u00`, false, "", ""},
	{`{"x":tru}`, false, "", ""},
	{"{\"s\":\"abc\"}\x00", false, "", ""},
	{"\ufeff{}", false, "", ""},
	{`{"x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}`, true, "", ""},
	{`{"x":` + strings.Repeat("[", 100_000), false, "", ""},
	{`{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, false, "", ""},
}

func TestFields(t *testing.T) {
	for _, d := range documents {
		s, n := jsonscan.Field{Name: "s", Kind: jsonscan.String}, jsonscan.Field{Name: "n", Kind: jsonscan.Number}
		err := jsonscan.Fields([]byte(d.doc), &s, &n)
		if (err == nil) != d.ok {
			t.Errorf("%.60q: %v", d.doc, err)
		}
		if err == nil && (string(s.Raw) != d.s || string(n.Raw) != d.n) {
			t.Errorf("%.60q: %q and %q", d.doc, s.Raw, n.Raw)
		}
	}
}

func TestUnsigned(t *testing.T) {
	for raw, want := range map[string]int64{"0": 0, "7": 7, "3600": 3600, "999999999999999999": 999999999999999999, "1000000000000000000": -1, "-1": -1, "1.0": -1, "1e3": -1} {
		n, ok := (&jsonscan.Field{Raw: []byte(raw)}).Unsigned()
		if ok != (want >= 0) || ok && int64(n) != want {
			t.Errorf("%s: %d, %t", raw, n, ok)
		}
	}
}

// TestFieldsPointIntoTheText: the values are parts of the text, not copies.
func TestFieldsPointIntoTheText(t *testing.T) {
	doc := []byte(`{"x":{"y":[1,"2"]},"s":"abc"}`)
	s := jsonscan.Field{Name: "s", Kind: jsonscan.String}
	if err := jsonscan.Fields(doc, &s); err != nil {
		t.Fatal(err)
	}
	doc[len(doc)-3] = 'X'
	if string(s.Raw) != "abX" {
		t.Errorf("%q", s.Raw)
	}
}

// topNames returns the names of doc's members, as encoding/json reads them.
func topNames(doc []byte) (names []string) {
	d := json.NewDecoder(bytes.NewReader(doc))
	if t, err := d.Token(); t != json.Delim('{') || err != nil {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return names
		}
		names = append(names, name.(string))
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return names
		}
	}
	return names
}

// FuzzFields: what Fields accepts is JSON in which encoding/json finds the same values; what it refuses is not JSON, or
// documented as refused.
func FuzzFields(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d.doc[:min(len(d.doc), 300)]))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		before := bytes.Clone(doc)
		s, n := jsonscan.Field{Name: "s", Kind: jsonscan.String}, jsonscan.Field{Name: "n", Kind: jsonscan.Number}
		err := jsonscan.Fields(doc, &s, &n)
		if !bytes.Equal(before, doc) {
			t.Fatal("the text was changed")
		}
		var want map[string]json.RawMessage
		valid := json.Valid(doc) && json.Unmarshal(doc, &want) == nil && want != nil
		if err == nil {
			checkFound(t, valid, want, &s, &n)
			return
		}
		if valid && simple(doc, want) {
			t.Fatalf("%q was refused", doc)
		}
	})
}

func checkFound(t *testing.T, valid bool, want map[string]json.RawMessage, all ...*jsonscan.Field) {
	t.Helper()
	if !valid {
		t.Fatal("what is no JSON object was accepted")
	}
	for _, m := range all {
		raw, there := want[m.Name]
		if there != (m.Raw != nil) {
			t.Fatalf("%s: found %t, there %t", m.Name, m.Raw != nil, there)
		}
		if m.Kind == jsonscan.String && there {
			raw = raw[1 : len(raw)-1]
		}
		if string(raw) != string(m.Raw) {
			t.Fatalf("%s: %q, want %q", m.Name, m.Raw, raw)
		}
	}
}

// simple reports whether doc contains nothing that Fields may refuse.
func simple(doc []byte, want map[string]json.RawMessage) bool {
	count := map[string]int{}
	for _, name := range topNames(doc) {
		count[name]++
	}
	if s, ok := want["s"]; ok && s[0] != '"' || count["s"] > 1 {
		return false
	}
	if n, ok := want["n"]; ok && n[0] != '-' && (n[0] < '0' || n[0] > '9') || count["n"] > 1 {
		return false
	}
	return !bytes.ContainsRune(doc, '\\') && bytes.Count(doc, []byte("["))+bytes.Count(doc, []byte("{")) < jsonscan.MaxDepth
}
