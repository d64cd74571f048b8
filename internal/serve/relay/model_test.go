package relay

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/policy"
)

var someModels = []string{"gpt-5", "gpt-5-mini*", "o4"}

// checked returns what comes of a body in pieces of n bytes: "" if it passes.
func checked(allowed []string, body string, n int) apierror.Code {
	m := newModelCheck(allowed)
	for p := range slices.Chunk([]byte(body), max(n, 1)) {
		if e := m.read(slices.Clone(p), false); e != nil {
			return e.Code
		}
	}
	if e := m.read(nil, true); e != nil {
		return e.Code
	}
	return ""
}

func TestModels(t *testing.T) {
	passes, denied, unread := apierror.Code(""), apierror.ModelNotAllowed, apierror.ModelNotReadable
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for body, want := range map[string]apierror.Code{
		`{"model":"gpt-5"}`: passes,
		" \r\n{\t\"model\" : \"gpt-5\" , \"input\":1 }\n": passes,
		`{"input":[{"model":"x"}],"model":"gpt-5"}`:       passes,
		`{"model":"o4","metadata":{"model":"x"}}`:         passes,
		`{"model":"gpt-5-mini"}`:                          passes,
		`{"model":"gpt-5-mini-2026-01-01"}`:               passes,
		`{"model":"gpt-5","models":"x","mode":"l"}`:       passes,
		`{"model":"gpt-5","x":"\",\"model\":\"o9"}`:       passes,
		`{"model":"gpt-5","x":"\ud800\u0000é"}`:           passes,
		`{"model":"gpt-5","x":` + nested(31) + `}`:        passes,

		`{"model":"gpt-5-nano"}`:  denied,
		`{"model":"gpt-5-min"}`:   denied,
		`{"model":"gpt"}`:         denied,
		`{"model":"GPT-5"}`:       denied,
		`{"model":"o4-mini"}`:     denied,
		`{"model":"gpt-5-mini*"}`: passes, // it begins so
		`{"model":"o4*"}`:         denied,
		`{"model":"*"}`:           denied,

		``:                               unread,
		`{}`:                             unread,
		`{"input":{"model":"gpt-5"}}`:    unread,
		`[{"model":"gpt-5"}]`:            unread,
		`"model"`:                        unread,
		`null`:                           unread,
		`{"model":null}`:                 unread,
		`{"model":5}`:                    unread,
		`{"model":true}`:                 unread,
		`{"model":["gpt-5"]}`:            unread,
		`{"model":{"model":"gpt-5"}}`:    unread,
		`{"model":""}`:                   unread,
		`{"model":" gpt-5"}`:             unread,
		`{"model":"gpt-5 "}`:             unread,
		`{"model":"gpt-5\u0000"}`:        unread,
		`{"model":"gpt\u002d5"}`:         unread,
		`{"model":"gpt-5\ud800"}`:        unread,
		`{"model":"gpt-5\/x"}`:           unread,
		`{"model":"gpt-5-miniö"}`:        unread,
		"{\"model\":\"gpt-5-mini\xff\"}": unread,
		"{\"model\":\"gpt-5-mini\x7f\"}": unread,
		"{\"model\":\"gpt-5\n\"}":        unread,
		`{"model":"gpt-5-mini` + strings.Repeat("i", maxModel) + `"}`: unread,
		`{"model":"gpt-5","model":"gpt-5"}`:                           unread,
		`{"model":"gpt-5","model":"o9"}`:                              unread,
		`{"model":"o4","model":null}`:                                 unread,
		`{"model":"gpt-5","x":1,"model":{}}`:                          unread,
		`{"model":"gpt-5","Model":"o9"}`:                              unread,
		`{"MODEL":"o9","model":"gpt-5"}`:                              unread,
		`{"modeL":"gpt-5"}`:                                           unread,
		`{"model":"gpt-5","mod\u0065l":"o9"}`:                         unread,
		`{"mod\u0065l":"gpt-5"}`:                                      unread,
		`{"model":"gpt-5","model\u0000":"o9"}`:                        unread,
		`{"model":"gpt-5","\ud800":1}`:                                unread,
		`{"model":"gpt-5"`:                                            unread,
		`{"model":"gpt-5",}`:                                          unread,
		`{"model":"gpt-5"}}`:                                          unread,
		`{"model":"gpt-5"}{"model":"o9"}`:                             unread,
		`{"model":"gpt-5"} x`:                                         unread,
		"{\"model\":\"gpt-5\"}\x00":                                   unread,
		"\ufeff{\"model\":\"gpt-5\"}":                                 unread,
		`{'model':'o9','x':1}`:                                        unread,
		`{model:"o9"}`:                                                unread,
		`{"model":"gpt-5"/*,"x":"*/}`:                                 unread,
		`{"model":"gpt-5","x":[}],"y":1}`:                             unread,
		`{"model":"gpt-5","x":[1,]}`:                                  unread,
		`{"model":"gpt-5","x":NaN}`:                                   unread,
		`{"model":"gpt-5","x":` + nested(32) + `}`:                    unread,
		"{\"\x00m\x00o\x00d\x00e\x00l\":1}":                           unread,
		"{\"model\":\"gpt-5\",\"mod\xffel\":\"o9\"}":                  unread, // a reader may ignore such bytes
		"{\"model\":\"gpt-5\",\"mod\xe2\x82el\":\"o9\"}":              unread,
		"{\"model\":\"gpt-5\",\"x\":\"\xc3\"}":                        unread,
		"{\"model\":\"gpt-5\",\"x\":\"\xed\xa0\x80\"}":                unread,
		"{\"model\":\"gpt-5\"}\xe2\x82":                               unread,
		`{"model":"gpt-5","é":"€𝄞"}`:                                  passes,
		"model=gpt-5":                                                 unread,
		"+AHsAIg-model":                                               unread,
	} {
		for n := range len(body) + 1 {
			if got := checked(someModels, body, n); got != want {
				t.Fatalf("%s in pieces of %d: %q, want %q", body, n, got, want)
			}
		}
	}
	if got := checked([]string{"*x"}, `{"model":"gpt-5"}`, 99); got != denied {
		t.Errorf("an asterisk at the beginning means everything: %q", got)
	}
}

func TestModelFlags(t *testing.T) {
	long := strings.Repeat("m", maxModel)
	for _, name := range []string{"gpt-5", "gpt-5*", "ft:gpt-5:org::id", "openai/gpt-5", "m", "m*", long, long + "*"} {
		if err := CheckModel(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "*", "**", "gpt*5", "*gpt", "gpt-5**", "gpt 5", "gpt-5,o4 ", `gpt"`, `gpt\`, "gpt\n", "gptö", long + "m"} {
		if CheckModel(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	if CheckRoutes([]string{"models", "websocket"}, []string{"gpt-5"}) == nil || CheckRoutes([]string{"websocket"}, nil) != nil || CheckRoutes([]string{"models"}, []string{"gpt-5"}) != nil {
		t.Error("models and a WebSocket exclude each other, and nothing else does")
	}
	config := Config{Upstream: unreached{}, Models: []string{"gpt-5"}, Routes: []string{"websocket"}, Path: plainPath}
	if p, err := New(config); err == nil || p != nil {
		t.Error("a relay was made that checks no model inside a WebSocket")
	}
}

// TestModelHeads checks that a head that changes the interpretation of the body's bytes is refused.
func TestModelHeads(t *testing.T) {
	for field, want := range map[string]bool{
		"X: y":                           true,
		"Content-Type: application/json": true,
		"Content-Type: Application/JSON;charset=UTF-8":                     true,
		`content-type: application/json ; charset="utf-8"`:                 true,
		"Content-Encoding: identity":                                       true,
		"Content-Type:":                                                    false,
		"Content-Type: text/plain":                                         false,
		"Content-Type: application/x-www-form-urlencoded":                  false,
		"Content-Type: multipart/form-data; boundary=x":                    false,
		"Content-Type: application/json; charset=utf-7":                    false,
		"Content-Type: application/json; charset=utf-8; charset=utf-7":     false,
		"Content-Type: application/json; x=y":                              false,
		"Content-Type: application/json, text/plain":                       false,
		"Content-Type: application/jsonl":                                  false,
		"Content_Type: text/plain":                                         false,
		"Content-Type: application/json\r\nContent-Type: application/json": false,
		"Content-Type: application/json\r\ncontent_type: application/json": false,
		"Content-Encoding: gzip":                                           false,
		"Content-Encoding: zstd":                                           false,
		"Content-Encoding: identity, gzip":                                 false,
		"Content_Encoding: gzip":                                           false,
		"Content-Encoding:":                                                false,
	} {
		for i := range routes {
			r := &routes[i]
			x := &exchange{relay: &Relay{cfg: Config{Models: someModels}}, Request: &Request{Head: head(t, "POST /", strings.Split(field, "\r\n")...)}, route: r}
			if got := x.beginModel() == nil; got != (want || !r.is(hasModel)) {
				t.Errorf("%s: %s passes: %t", r.name, field, got)
			}
			if (x.model != nil) != r.is(hasModel) {
				t.Errorf("%s: checked: %t", r.name, x.model != nil)
			}
		}
	}
}

// TestModelRoutes checks every route on which a request may name a model.
func TestModelRoutes(t *testing.T) {
	exempt := []string{"shutdown", "models", "retrieve", "delete", "cancel", "websocket"}
	for _, r := range routes {
		if r.is(hasModel) == slices.Contains(exempt, r.name) {
			t.Errorf("%s: checked: %t", r.name, r.is(hasModel))
		}
	}
}

// topLevel returns the values of the members of a JSON object whose names are a word in letters of any case.
func topLevel(t *testing.T, body, word string) (values []any) {
	d := json.NewDecoder(strings.NewReader(body))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		if strings.EqualFold(name.(string), word) {
			values = append(values, value)
		}
	}
	return values
}

// FuzzModel checks that a body that passes names the same model for a reader that keeps the first member of a name and
// for one that keeps the last, whether they distinguish upper and lower case or not. A plain request passes.
func FuzzModel(f *testing.F) {
	for _, s := range []string{
		`{"model":"gpt-5","input":"hi"}`, `{"model":"gpt-5","model":"o9"}`, `{"Model":"o9","model":"gpt-5"}`, `{"mod\u0065l":"gpt-5"}`, `{"model":"gpt\u002d5"}`,
		`{"input":[{"model":"\ud800"}],"model":"gpt-5-mini-x"}`, "{\"model\":\"gpt-5-mini\xff\"}", `{"model":"gpt-5"}{"model":"o9"}`, `{"model":"gpt-5","x":[}]}`, `{"model":null,"model":"o4"}`,
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, body string, piece uint8) {
		got := checked(someModels, body, len(body))
		for _, n := range []int{1, int(piece)} {
			if other := checked(someModels, body, n); (other == "") != (got == "") {
				t.Fatalf("in pieces of %d: %q, whole %q", n, other, got)
			}
		}
		if !json.Valid([]byte(body)) {
			if got == "" {
				t.Fatal("what is no JSON passes")
			}
			return
		}
		if text, err := json.Marshal(body); err != nil || checked(someModels, `{"input":`+string(text)+`,"model":"gpt-5"}`, int(piece)) != "" {
			t.Fatal("a request with this text is refused")
		}
		if got != "" {
			return
		}
		models := topLevel(t, body, "model")
		var folded struct{ Model string }
		var exact map[string]any
		if json.Unmarshal([]byte(body), &folded) != nil || json.Unmarshal([]byte(body), &exact) != nil {
			t.Fatal("encoding/json cannot read what passes")
		}
		name, _ := exact["model"].(string)
		if len(models) != 1 || models[0] != exact["model"] || folded.Model != name || !newModelCheck(someModels).allows([]byte(name)) {
			t.Fatalf("readers find %q, %q and %q", models, folded.Model, exact["model"])
		}
	})
}

// TestLateModels checks that a second model after the first megabyte still holds the last byte back.
func TestLateModels(t *testing.T) {
	everyone, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	filler := `{"model":"gpt-5","input":"` + strings.Repeat("x", maxMemory) + `"`
	for end, passes := range map[string]bool{"}": true, `,"model":"o9"}`: false, `,"model":"gpt-5"}`: false, "": false, "}}": false} {
		lease, _ := everyone.Connect(nil).Admit(head(t, "POST /v1/responses"), policy.Spend)
		x := &exchange{lease: lease, model: newModelCheck(someModels)}
		x.out.Length = int64(len(filler + end))
		x.Request = &Request{Body: &part{[]string{filler, end}, io.EOF}}
		read := 0
		var err error
		for p := make([]byte, 1<<16); err == nil; {
			var n int
			n, err = x.Read(p)
			read += n
		}
		body, isRefused := errors.AsType[refused](err)
		if (err == io.EOF) != passes || isRefused == passes || (read == len(filler+end)) != passes || (body.why == nil) != passes {
			t.Errorf("%q: %d of %d bytes, %v", end, read, len(filler+end), err)
		}
	}
}
