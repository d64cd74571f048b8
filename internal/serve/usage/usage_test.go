package usage

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unsafe"
)

const (
	jsonType = "application/json"
	sseType  = "text/event-stream; charset=utf-8"
)

// meter passes a body to a new meter in pieces of n bytes; 0 means all at once.
func meter(contentType, body string, n int) *Meter {
	m := New(Responses, []byte(contentType), nil)
	if n <= 0 {
		n = max(len(body), 1)
	}
	for p := []byte(body); len(p) > 0; p = p[min(n, len(p)):] {
		piece := append([]byte(nil), p[:min(n, len(p))]...)
		m.Write(piece)
		clear(piece) // the meter must not keep it
	}
	return m
}

// check reads a body as a whole, byte by byte, and split at every position.
func check(t *testing.T, contentType, body string, want int64, exact bool) {
	t.Helper()
	same := func(how string, m *Meter) {
		t.Helper()
		if n, e := m.Tokens(); n != want || e != exact {
			t.Fatalf("%s: %d, exact %t; want %d, exact %t\n%s", how, n, e, want, exact, body)
		}
	}
	same("whole", meter(contentType, body, 0))
	same("in single bytes", meter(contentType, body, 1))
	for i := range body {
		m := New(Responses, []byte(contentType), nil)
		m.Write([]byte(body[:i]))
		m.Tokens() // Tokens must not change anything
		m.Write([]byte(body[i:]))
		same(fmt.Sprintf("split at %d", i), m)
	}
}

const (
	plain   = `{"input_tokens":70,"output_tokens":30,"total_tokens":100}`
	forged  = `{\"usage\":{\"input_tokens\":9,\"output_tokens\":9,\"total_tokens\":999}}`
	created = `data: {"type":"response.created","response":{"id":"r","usage":null}}` + "\n\n"
)

// completed returns a stream's last event.
func completed(usage string) string {
	return `data: {"type":"response.completed","response":{"id":"r","output":[],"usage":` + usage + "}}\n\n"
}

// floor stands for "the estimate of the body's bytes" in the tables.
const floor = -1

func wantOr(body string, n int64) int64 {
	if n == floor {
		return Estimate(int64(len(body)))
	}
	return n
}

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       int64
		exact      bool
	}{
		{"plain", `{"id":"r","usage":` + plain + `}`, 100, true},
		{"spread out", " {\r\n\t\"usage\" : {\n \"input_tokens\" : 70 , \"output_tokens\" : 30 } \n} \n", 100, true},
		{"with details", `{"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":5000},"output_tokens":3,"output_tokens_details":{"input_tokens":5000},"total_tokens":10}}`, 10, true},
		{"escaped keys", `{"us\u0061ge":{"\u0069nput_tokens":7,"output\u005Ftokens":3}}`, 10, true},
		{"byte order mark", "\ufeff" + `{"usage":` + plain + `}`, floor, false},
		{"zero", `{"usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0}}`, 0, true},
		{"total is larger", `{"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":12}}`, 12, true},
		{"total is smaller", `{"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":1}}`, 10, true},
		{"no output", `{"usage":{"input_tokens":700,"total_tokens":1000}}`, 1000, true},
		{"total alone", `{"usage":{"total_tokens":1000}}`, 1000, true},
		{"the largest", `{"usage":{"input_tokens":9223372036854775807,"output_tokens":0}}`, math.MaxInt64, true},
		{"the sum is too large", `{"usage":{"input_tokens":9223372036854775807,"output_tokens":5}}`, math.MaxInt64, true},
		{"number twice, larger first", `{"usage":{"input_tokens":70,"output_tokens":30,"input_tokens":1}}`, 100, true},
		{"number twice, larger last", `{"usage":{"input_tokens":1,"output_tokens":30,"input_tokens":70}}`, 100, true},
		{"usage twice", `{"usage":` + plain + `,"usage":{"total_tokens":1}}`, 100, true},
		{"usage, then null", `{"usage":` + plain + `,"usage":null}`, 100, true},
		{"null, then usage", `{"usage":null,"usage":` + plain + `}`, 100, true},

		{"text that looks like usage", `{"output":"` + forged + `","usage":` + plain + `}`, 100, true},
		{"text that closes the string", `{"output":"\",\"usage\":{\"total_tokens\":999}","usage":` + plain + `}`, 100, true},
		{"text that ends in backslashes", `{"output":"\\","a":"\\\\","b":"\\\"","usage":` + plain + `}`, 100, true},
		{"text with escaped quotes", `{"a":"\u0022,\u0022usage","usage":` + plain + `}`, 100, true},
		{"text with brackets", `{"a":"}]}]{[","b":["}"],"usage":` + plain + `}`, 100, true},
		{"usage in an output item", `{"output":[{"usage":{"total_tokens":999}}],"usage":` + plain + `}`, 100, true},
		{"usage at a stream's path", `{"response":{"usage":{"total_tokens":999}},"usage":` + plain + `}`, 100, true},
		{"numbers at the top", `{"total_tokens":999,"input_tokens":999,"usage":` + plain + `}`, 100, true},
		{"numbers below usage", `{"usage":{"usage":{"total_tokens":999},"x":[{"total_tokens":999}],"input_tokens":70,"output_tokens":30}}`, 100, true},
		{"other spellings", `{"Usage":{"total_tokens":999},"usage ":{"total_tokens":999},"usage\u0000":{"total_tokens":999},"usage":` + plain + `}`, 100, true},
		{"spellings outside ASCII", `{"u\u0173age":{"total_tokens":999},"usagé":{"total_tokens":999},"\u0075\u0073\u0061\u0067\u0065":` + plain + `}`, 100, true},
		{"a long key", `{"` + strings.Repeat("usage", 9) + `":{"total_tokens":999},"usage":` + plain + `}`, 100, true},
		{"other values", `{"a":-1.5e+3,"b":true,"c":false,"d":null,"e":[],"f":{},"g":"","usage":` + plain + `}`, 100, true},
		{"deeper than any stack", `{"a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `,"usage":` + plain + `}`, 100, true},

		{"no usage", `{"error":{"message":"no","total_tokens":999}}`, floor, false},
		{"usage is null", `{"usage":null}`, floor, false},
		{"usage is a list", `{"usage":[{"total_tokens":999}]}`, floor, false},
		{"usage is text", `{"usage":"total_tokens"}`, floor, false},
		{"usage is empty", `{"usage":{}}`, floor, false},
		{"input alone", `{"usage":{"input_tokens":1}}`, floor, false},
		{"input alone, but more", `{"usage":{"input_tokens":1000}}`, 1000, false},
		{"a list", `[{"usage":` + plain + `}]`, floor, false},
		{"text", `"usage"`, floor, false},
		{"nothing", ``, 0, false},
		{"cut behind the numbers", `{"usage":{"input_tokens":700,"output_tokens":300}`, 1000, false},
		{"cut before them", `{"output":"aaaaaaaaaaaaaa","usage":{"input_tokens"`, floor, false},
		{"two documents", `{"usage":{"total_tokens":1000}}{}`, 1000, false},
		{"no comma", `{"usage":{"total_tokens":1000} "a":1}`, 1000, false},
		{"no colon", `{"usage" {"total_tokens":1000}}`, floor, false},
		{"bracket that was not opened", `{"usage":{"total_tokens":1000}]}`, 1000, false},
		{"half a byte order mark", "\xef\xbb" + `{"usage":` + plain + `}`, floor, false},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, jsonType, c.body, wantOr(c.body, c.want), c.exact) })
	}
}

// TestOddNumbers: a number that is not plain is never exact. A valid one is rounded up; an invalid one ends the
// document, and the estimate applies.
func TestOddNumbers(t *testing.T) {
	const most = math.MaxInt64
	for number, want := range map[string]int64{
		"9223372036854775808":     most,
		strings.Repeat("9", 400):  most,
		"1000.0":                  1000,
		"1000.5":                  1001,
		"1000.00000000001":        1001,
		"1e3":                     1000,
		"1E+3":                    1000,
		"1.5e3":                   1500,
		"0.5e4":                   5000,
		"1e400":                   most,
		"1e18":                    1e18,
		"1e19":                    most,
		"1e99999999999999999999":  most,
		"1000e-3":                 1,
		"1e-400":                  0,
		"0e99":                    0,
		"-5000":                   0,
		"-0":                      0,
		"-9223372036854775809":    0,
		"-1e400":                  0,
		"01000":                   0,
		"00":                      0,
		"1000-1":                  1000,
		"-":                       0,
		"1000abc":                 1000,
		`"5000"`:                  0,
		"null":                    0,
		"true":                    0,
		"{}":                      0,
		`{"total_tokens":5000}`:   0,
		`[5000]`:                  0,
		`"\"total_tokens\":5000"`: 0,
	} {
		body := `{"usage":{"input_tokens":0,"output_tokens":0,"total_tokens":` + number + `}}`
		check(t, jsonType, body, max(want, Estimate(int64(len(body)))), false)
	}
}

func TestStream(t *testing.T) {
	ok := completed(plain)
	lines := func(s ...string) string { return strings.Join(s, "\n") }
	for _, c := range []struct {
		name, body string
		want       int64
		exact      bool
	}{
		{"plain", created + ok, 100, true},
		{"incomplete", strings.Replace(ok, "completed", "incomplete", 1), 100, true},
		{"failed", strings.Replace(ok, "completed", "failed", 1), 100, true},
		{"two responses add up", ok + completed(`{"total_tokens":5}`), 105, true},
		{"CRLF", strings.ReplaceAll(created+": hi\n"+ok, "\n", "\r\n"), 100, true},
		{"CR", strings.ReplaceAll(created+": hi\n"+ok, "\n", "\r"), floor, false},
		{"CR within a line", ": hi\r\n" + ok + "\r" + created + "\r\r\n" + "\r" + ok, 100, true},
		{"LF behind CR and an empty data line", ": hi\rdata: \n" + ok, 100, true},
		{"no space behind the colon", strings.ReplaceAll(ok, "data: ", "data:"), 100, true},
		{"two spaces behind the colon", strings.ReplaceAll(ok, "data: ", "data:  "), 100, true},
		{"byte order mark", "\ufeff" + ok, floor, false},
		{"byte order mark before another event", "\ufeff" + created + ok, 100, true},
		{"other fields", "event: response.completed\nid: 1\nretry: 5\nd\ndat\nfoo\n: data: {}\n" + ok, 100, true},
		{"several data lines", lines(`data: {"type":"response.completed",`, `data: "response":{"usage"`, "event: x", `data: :{"total_tokens"`, "data", "data:", `data: :100}}}`, "", ""), 100, true},
		{"a line end ends a number", lines(`data: {"type":"response.completed","response":{"usage":{"total_tokens":100`, `data: }}}`, "", ""), 100, true},
		{"type last", `data: {"response":{"usage":` + plain + `},"type":"response.completed"}` + "\n\n", 100, true},
		{"type in escapes", `data: {"\u0074ype":"response\u002ecompleted","response":{"usage":` + plain + "}}\n\n", 100, true},
		{"response twice", `data: {"type":"response.completed","response":{"usage":` + plain + `},"response":{"usage":{"total_tokens":1}}}` + "\n\n", 100, true},
		{"end mark", ok + "data: [DONE]\n\n", 100, true},
		{"empty lines", "\n\n\n" + ok + "\n\n", 100, true},
		{"broken event of no known type", "data: {\"a\" 1}\n\n" + ok, 100, true},
		{"no empty line at the end", strings.TrimRight(ok, "\n"), 100, true},
		{"the next event is cut", ok + `data: {"type":"response.comp`, 100, true},
		{"a long line", `data: {"type":"response.image","b64":"` + strings.Repeat("QUJD", 100) + "\"}\n\n" + ok, 100, true},
		{"a long line before the type", `data: {"b64":"` + strings.Repeat("QUJD", 100) + `","type":"response.image"}` + "\n\n" + ok, 100, true},

		{"text that looks like usage", `data: {"type":"response.output_text.delta","delta":"` + forged + "\"}\n\n" + ok, 100, true},
		{"text that looks like an event", `data: {"type":"response.output_text.delta","delta":"\n\ndata: {\"type\":\"response.completed\",\"response\":` + forged + "}\"}\n\n" + ok, 100, true},
		{"usage in an event of another type", `data: {"type":"response.in_progress","response":{"usage":{"total_tokens":999}}}` + "\n\n" + ok, 100, true},
		{"usage beside the response", `data: {"type":"response.completed","usage":{"total_tokens":999},"response":{"usage":` + plain + "}}\n\n", 100, true},
		{"usage in an output item", `data: {"type":"response.completed","response":{"output":[{"usage":{"total_tokens":999}}],"usage":` + plain + "}}\n\n", 100, true},
		{"a second type", `data: {"type":"response.x","type":"response.completed","response":{"usage":{"total_tokens":999}}}` + "\n\n" + ok, 100, true},
		{"a second type cannot hide", `data: {"type":"response.completed","response":{"usage":` + plain + `},"type":"x"}` + "\n\n", 100, true},
		{"a type below", `data: {"item":{"type":"response.completed"},"response":{"usage":{"total_tokens":999}},"type":"x"}` + "\n\n" + ok, 100, true},
		{"other types", `data: {"type":"response.completed.","response":{"usage":{"total_tokens":999}}}` + "\n\n" + `data: {"type":1,"response":{"usage":{"total_tokens":999}}}` + "\n\n" + ok, 100, true},
		{"no type", "event: response.completed\n" + `data: {"response":{"usage":{"total_tokens":999}}}` + "\n\n" + ok, 100, true},
		{"a comment", ": " + ok + ok, 100, true},
		{"another field", "xdata: " + ok + "datax: {}\n\n" + ok, 100, true},
		{"a space before the field", " " + ok + ok, 100, true},

		{"cut", created + `data: {"type":"response.output_text.delta","delta":"a"}` + "\n\n", floor, false},
		{"keep-alive only", ": keepalive\n\n: keepalive\n\n", floor, false},
		{"end mark only", "data: [DONE]\n\n", floor, false},
		{"usage is null", completed("null"), floor, false},
		{"one without usage", completed(`{"total_tokens":1000}`) + completed("null"), 1000, false},
		{"cut in the closing event", created + strings.TrimSuffix(completed(`{"total_tokens":1000}`), "}}\n\n"), 1000, false},
		{"cut in the number", created + strings.TrimRight(completed(`{"total_tokens":1000}`), "}\n"), floor, false},
		{"broken closing event", `data: {"type":"response.completed","response":{"usage":{"total_tokens":1000}}]` + "\n\n", 1000, false},
		{"closing event behind another object", `data: {}` + "\n" + ok, floor, false},
		{"a number in two lines", lines(`data: {"type":"response.completed","response":{"usage":{"total_tokens":10`, `data: 000}}}`, "", ""), floor, false},
		{"an odd number", completed(`{"total_tokens":1e3}`), 1000, false},
		{"too many for an int64", completed(`{"total_tokens":9223372036854775807}`) + ok, math.MaxInt64, true},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, sseType, c.body, wantOr(c.body, c.want), c.exact) })
	}
}

func TestKinds(t *testing.T) {
	json, sse := `{"usage":`+plain+`}`, completed(plain)
	for _, c := range []struct {
		contentType, encoding, body string
		exact                       bool
	}{
		{"application/json", "", json, true},
		{"Application/JSON ; charset=utf-8", "", json, true},
		{"text/event-stream", "", sse, true},
		{"TEXT/Event-Stream;charset=utf-8", " Identity ", sse, true},

		{"application/json", "gzip", json, false},
		{"text/event-stream", "identity, br", sse, false},
		{"application/json", "", sse, false},
		{"text/event-stream", "", json, false},
		{"text/plain", "", json, false},
		{"application/jsonl", "", json, false},
		{"application/problem+json", "", json, false},
		{"", "", json, false},
	} {
		m := New(Responses, []byte(c.contentType), []byte(c.encoding))
		m.Write([]byte(c.body))
		want := int64(100)
		if !c.exact {
			want = Estimate(int64(len(c.body)))
		}
		if n, exact := m.Tokens(); n != want || exact != c.exact {
			t.Errorf("%q, %q: %d, exact %t", c.contentType, c.encoding, n, exact)
		}
	}
}

func TestEstimate(t *testing.T) {
	for bytes, want := range map[int64]int64{
		-1: 0, 0: 0, 1: 1, 4: 1, 5: 2, math.MaxInt64: math.MaxInt64/4 + 1, math.MinInt64: 0,
	} {
		if got := Estimate(bytes); got != want {
			t.Errorf("Estimate(%d) = %d, want %d", bytes, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(Meter{}); n > 640 {
		t.Errorf("a meter takes %d bytes", n)
	}
}

// TestNoSlowBodies: the work for a body is linear in its size, however it is split and whatever it contains; otherwise
// these would take minutes.
func TestNoSlowBodies(t *testing.T) {
	const size = 8 << 20
	for name, s := range map[string]string{
		"escapes": `\n`, "quotes": `\"`, "backslashes": `\\`, "brackets": `[`, "text": `a`, "returns": "\r", "comments": ":\r",
	} {
		body := `data: {"a":"` + strings.Repeat(s, size/len(s))
		if n, exact := meter(sseType, body, 1<<20).Tokens(); exact || n != Estimate(int64(len(body))) {
			t.Errorf("%s: %d, exact %t", name, n, exact)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	m := New(Responses, []byte(sseType), nil)
	body := []byte(created + completed(plain))
	if n := testing.AllocsPerRun(100, func() { m.Write(body); m.Tokens() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestEvents: events that come as messages of their own.
func TestEvents(t *testing.T) {
	for _, c := range []struct {
		event string
		ends  bool
		cost  int64
		exact bool
	}{
		{`{"type":"response.created","response":{"id":"r","usage":null}}`, false, 0, false},
		{`{"type":"response.output_text.delta","delta":"{\"type\":\"response.completed\"}"}`, false, 0, false},
		{`{"delta":{"type":"response.completed"},"response":{"usage":{"total_tokens":1}}}`, false, 0, false},
		{"{\"type\":\n\n\"response.completed\",\r\n\"response\":{\"model\":\"m\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4}}}", true, 7, true},
		{`{"response":{"usage":{"total_tokens":9}},"type":"response.incomplete"}`, true, 9, true},
		{`{"type":"response.failed","response":{"usage":null}}`, true, 0, false},
		{`{"type":"response.completed","response":{"usage":{"total_tokens":9}`, true, 9, false},
		{`{"type":"error","status":400,"error":{"message":"no"}}`, true, 0, false},
		{`data: {"type":"response.completed"}`, false, 0, false},
		{"", false, 0, false},
	} {
		for piece := 1; piece <= len(c.event)+1; piece++ {
			m := NewEvents()
			m.Write([]byte(`{"type":"response.in_progress"}`))
			if m.EndEvent() {
				t.Error("an event that ends nothing ends a response")
			}
			for p := []byte(c.event); len(p) > 0; p = p[min(piece, len(p)):] {
				m.Write(p[:min(piece, len(p))])
			}
			ends := m.EndEvent()
			n, exact := m.Tokens()
			if want := max(c.cost, Estimate(int64(31+len(c.event)))); ends != c.ends || exact != c.exact || exact && n != c.cost || !exact && n != want {
				t.Errorf("%s in pieces of %d: ends %t, %d tokens, exact %t", c.event, piece, ends, n, exact)
			}
		}
	}
}
