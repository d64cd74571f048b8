package usage

import (
	"fmt"
	"strings"
	"testing"
)

// details are what a response reports besides the sum of its tokens.
type details struct {
	model         string
	input, output int64
	exact         bool
}

func read(m *Meter) details {
	in, out, exact := m.Usage()
	return details{string(m.Model()), in, out, exact}
}

// checkDetails reads a body as a whole, byte by byte, and split at every position.
func checkDetails(t *testing.T, contentType, body string, want details) {
	t.Helper()
	same := func(how string, m *Meter) {
		t.Helper()
		if got := read(m); got != want {
			t.Fatalf("%s: %+v, want %+v\n%s", how, got, want, body)
		}
	}
	same("whole", meter(contentType, body, 0))
	same("in single bytes", meter(contentType, body, 1))
	for i := range body {
		m := New(Responses, []byte(contentType), nil)
		m.Write([]byte(body[:i]))
		read(m) // asking must not change anything
		m.Write([]byte(body[i:]))
		same(fmt.Sprintf("split at %d", i), m)
	}
}

func TestModelInJSON(t *testing.T) {
	long := strings.Repeat("m", maxModel)
	for _, c := range []struct{ name, body, model string }{
		{"plain", `{"id":"r","model":"gpt-5","usage":null}`, "gpt-5"},
		{"spread out", " {\n\"model\" :\t\"gpt-5\" }", "gpt-5"},
		{"escaped key", `{"mod\u0065l":"gpt-5"}`, "gpt-5"},
		{"last", `{"output":[{"model":"no"}],"model":"gpt-5"}`, "gpt-5"},
		{"as long as may be", `{"model":"` + long + `"}`, long},
		{"longer", `{"model":"` + long + `xyz\n","a":1}`, long},
		{"cut in a rune of two bytes", `{"model":"` + long[1:] + `éé"}`, long[1:]},
		{"cut in a rune of four bytes", `{"model":"` + long[3:] + `𝄞"}`, long[3:]},
		{"cut behind a rune", `{"model":"` + long[2:] + `éé"}`, long[2:] + "é"},
		{"not UTF-8", `{"model":"a` + "\xff\x80" + `"}`, "a\xff\x80"},
		{"twice: the last counts", `{"model":"a","model":"bc"}`, "bc"},
		{"the answer is cut behind it", `{"model":"gpt-5","output":[`, "gpt-5"},
		{"the answer is broken behind it", `{"model":"gpt-5"]`, "gpt-5"},

		{"none", `{"id":"r"}`, ""},
		{"empty", `{"model":""}`, ""},
		{"cut in it", `{"model":"gpt-`, ""},
		{"with an escape", `{"model":"gpt\u002d5","a":"b"}`, ""},
		{"with an escaped quote", `{"model":"\"gpt-5","a":"b"}`, ""},
		{"with a control character", "{\"model\":\"gpt\n5\"}", ""},
		{"twice, and no text", `{"model":"a","model":null}`, ""},
		{"null", `{"model":null}`, ""},
		{"a number", `{"model":5}`, ""},
		{"an object", `{"model":{"model":"no"}}`, ""},
		{"a list", `{"model":["model","no"]}`, ""},
		{"in metadata", `{"metadata":{"model":"no"}}`, ""},
		{"in usage", `{"usage":{"model":"no"}}`, ""},
		{"in tools", `{"tools":[{"type":"image_generation","model":"no"}]}`, ""},
		{"in output", `{"output":[{"model":"no","content":[{"model":"no"}]}]}`, ""},
		{"in text", `{"output":"\",\"model\":\"no\",\"a\":\""}`, ""},
		{"in text behind a backslash", `{"output":"\\\",\"model\":\"no"}`, ""},
		{"at a stream's path", `{"response":{"model":"no"}}`, ""},
		{"as a value", `{"a":"model","b":"no"}`, ""},
		{"other spellings", `{"Model":"no","model ":"no","models":"no","mode":"no","model\u0000":"no"}`, ""},
		{"in a list", `[{"model":"no"}]`, ""},
		{"in a second document", `{}{"model":"no"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) { checkDetails(t, jsonType, c.body, details{model: c.model, exact: false}) })
	}
}

func closing(model string) string {
	return `data: {"type":"response.completed","response":{"id":"r","model":"` + model + `","usage":` + plain + "}}\n\n"
}

func TestDetailsInStream(t *testing.T) {
	ok, whole := closing("gpt-5"), details{"gpt-5", 70, 30, true}
	begun := `data: {"type":"response.created","response":{"model":"no","usage":{"input_tokens":5,"output_tokens":5}}}` + "\n\n"
	for _, c := range []struct {
		name, body string
		want       details
	}{
		{"plain", created + ok, whole},
		{"incomplete", strings.Replace(ok, "completed", "incomplete", 1), whole},
		{"failed", strings.Replace(ok, "completed", "failed", 1), whole},
		{"the type stands last", `data: {"response":{"usage":` + plain + `,"model":"gpt-5"},"type":"response.completed"}` + "\n\n", whole},
		{"no empty line at the end", strings.TrimRight(ok, "\n"), whole},
		{"an event begins behind it", ok + `data: {"type":"response.completed","response":{"id"`, details{"gpt-5", 70, 30, false}},
		{"the second names an empty one", ok + closing(""), details{"gpt-5", 140, 60, true}},
		{"two responses", closing("a") + ok, details{"gpt-5", 140, 60, true}},
		{"the second names none", ok + completed(plain), details{"gpt-5", 140, 60, true}},
		{"the second names one in escapes", ok + closing(`\u0061`), details{"gpt-5", 140, 60, true}},

		{"an opening event", begun, details{}},
		{"beside the response", `data: {"type":"response.completed","model":"no","response":{}}` + "\n\n", details{}},
		{"in an event without a type", `data: {"response":{"model":"no"}}` + "\n\n", details{}},
		{"in an event of another type", strings.Replace(ok, "response.completed", "response.x", 1), details{}},
		{"of another type, and the type last", `data: {"response":{"model":"no"},"type":"x"}` + "\n\n", details{}},
		{"in an item", `data: {"type":"response.completed","response":{"output":[{"model":"no"}],"metadata":{"model":"no"}}}` + "\n\n", details{}},
		{"in text", `data: {"type":"response.output_text.delta","delta":"\n\n` + strings.ReplaceAll(strings.TrimSpace(ok), `"`, `\"`) + "\"}\n\n", details{}},
		{"in a comment", ": " + ok, details{}},
		{"a name in two lines", "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt\ndata: -5\"}}\n\n", details{}},
	} {
		t.Run(c.name, func(t *testing.T) { checkDetails(t, sseType, c.body, c.want) })
	}
}

// Input and output are exact only if both were reported.
func TestUsage(t *testing.T) {
	for usage, want := range map[string]details{
		plain:                                  {"", 70, 30, true},
		`{"input_tokens":0,"output_tokens":0}`: {"", 0, 0, true},
		`{"input_tokens":7,"output_tokens":3,"total_tokens":99}`: {"", 7, 3, true},
		`{"input_tokens":7,"input_tokens":5,"output_tokens":3}`:  {"", 7, 3, true},
		`{"total_tokens":10}`:                      {"", 0, 0, false},
		`{"input_tokens":7,"total_tokens":10}`:     {"", 7, 0, false},
		`{"input_tokens":7,"output_tokens":1e3}`:   {"", 7, 1000, false},
		`{"input_tokens":7,"output_tokens":"3"}`:   {"", 7, 0, false},
		`{"details":{"input_tokens":7}}`:           {"", 0, 0, false},
		`[{"input_tokens":7,"output_tokens":3}]`:   {"", 0, 0, false},
		`"{\"input_tokens\":7,\"output_tokens\":3`: {"", 0, 0, false},
	} {
		checkDetails(t, jsonType, `{"usage":`+usage+`}`, want)
		checkDetails(t, sseType, completed(usage), want)
	}
	total := completed(`{"total_tokens":5}`)
	for _, mixed := range []string{completed(plain) + total, total + completed(plain)} {
		checkDetails(t, sseType, mixed, details{"", 70, 30, false})
	}
}

func TestDetailsOfUnknownKinds(t *testing.T) {
	body := `{"model":"no","usage":` + plain + `}`
	for _, c := range []struct{ contentType, encoding string }{
		{"text/plain", ""}, {"", ""}, {jsonType, "gzip"}, {sseType, ""},
	} {
		m := New(Responses, []byte(c.contentType), []byte(c.encoding))
		m.Write([]byte(body))
		if got := read(m); got != (details{}) {
			t.Errorf("%q, %q: %+v", c.contentType, c.encoding, got)
		}
	}
}

func TestDetailsDoNotAllocate(t *testing.T) {
	m := New(Responses, []byte(sseType), nil)
	body := []byte(created + closing("gpt-5") + closing(strings.Repeat("é", 99)))
	if n := testing.AllocsPerRun(100, func() { m.Write(body); m.Usage(); m.Model() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
