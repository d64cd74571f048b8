package usage

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// reference reads a whole body with encoding/json. ok is false if it gives no verdict: for invalid JSON or unusual
// numbers.
type reference struct {
	sum     int64
	in, out int64
	model   string // of the last closing event with a model
	found   bool
	ok      bool
	exact   bool
	parted  bool // input and output were reported
}

// member is an object's key and value; a list, because keys may repeat.
type member struct {
	key   string
	value any
}

func decode(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, _ := t.(json.Delim)
	if open == 0 {
		return t, nil
	}
	all := []member{}
	for d.More() {
		var m member
		if open == '{' {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			m.key = k.(string)
		}
		if m.value, err = decode(d); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	_, err = d.Token()
	if open == '[' {
		return len(all), err // lists are irrelevant
	}
	return all, err
}

func (r *reference) parse(doc string) []member {
	if !json.Valid([]byte(doc)) {
		r.ok = false
		return nil
	}
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	v, err := decode(d)
	if err != nil {
		r.ok = false
	}
	all, _ := v.([]member)
	return all
}

var plainNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

// response reads the usage of a response object.
func (r *reference) response(objects ...any) {
	most := map[string]int64{}
	var model string
	for _, o := range objects {
		members, _ := o.([]member)
		for _, u := range members {
			switch u.key {
			case "usage":
				r.usage(u.value, most)
			case "model":
				model, _ = u.value.(string)
			}
		}
	}
	r.model = cmp.Or(model, r.model)
	in, haveIn := most["input_tokens"]
	out, haveOut := most["output_tokens"]
	total, haveTotal := most["total_tokens"]
	r.exact = r.exact && (haveIn && haveOut || haveTotal)
	r.parted = r.parted && haveIn && haveOut
	r.sum = plus(r.sum, max(plus(in, out), total))
	r.in, r.out = plus(r.in, in), plus(r.out, out)
	r.found = true
}

func (r *reference) usage(v any, most map[string]int64) {
	members, _ := v.([]member)
	for _, m := range members {
		switch m.key {
		case "input_tokens", "output_tokens", "total_tokens":
			text, _ := m.value.(json.Number)
			n, err := strconv.ParseInt(text.String(), 10, 64)
			if err != nil || !plainNumber.MatchString(text.String()) {
				r.ok = false
				return
			}
			most[m.key] = max(most[m.key], n)
		}
	}
}

func (r *reference) event(data string) {
	if strings.TrimLeft(data, " \t\r\n") == "" {
		return
	}
	var responses []any
	var kind any
	members := r.parse(data)
	for _, m := range members {
		switch {
		case m.key == "type" && kind == nil:
			if kind = m.value; kind == nil {
				kind = false
			}
		case m.key == "response":
			responses = append(responses, m.value)
		}
	}
	switch kind {
	case "response.completed", "response.incomplete", "response.failed":
		r.response(responses...)
	}
}

func (r *reference) stream(body string) {
	for _, data := range dataOf(body) {
		r.event(data)
	}
}

// dataOf returns the data of a stream's events.
func dataOf(body string) (events []string) {
	var data []string
	body = strings.ReplaceAll(body, "\r\n", "\n")
	for line := range strings.SplitSeq(body, "\n") {
		name, value, _ := strings.Cut(line, ":")
		switch {
		case line == "":
			events = append(events, strings.Join(data, "\n"))
			data = nil
		case name == "data":
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	return append(events, strings.Join(data, "\n"))
}

func refer(contentType, body string) reference {
	r := reference{ok: true, exact: true, parted: true}
	if contentType == jsonType {
		if members := r.parse(body); members != nil {
			r.response(any(members))
		}
	} else {
		r.stream(body)
	}
	return r
}

// FuzzBody compares every body with the reference. Without its verdict, a body counts for at least its estimate,
// however it is split.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"usage":` + plain + `}`, created + completed(plain), "\ufeff" + completed(`{"total_tokens":5}`) + "data: [DONE]\n\n",
		`data: {"response":{"usage":{"total_tokens":7}},` + "\r\n" + `data:"type":"response.failed"}` + "\r\n\r\n",
		`{"output":"` + forged + `","us\u0061ge":{"input_tokens":1e3,"input_tokens":5},"usage":null}`,
		`{"metadata":{"model":"no"},"model":"gpt-5","tools":[{"model":"no"}]}`, closing("gpt-5") + closing(strings.Repeat("é", 40)) + closing(""), closing(`\u0061`),
		`{"model":"a","model":{"model":"b"}}`, `{"model":"` + strings.Repeat("\xf0\x9d\x84", 30) + `"}`, `{"model":"` + strings.Repeat("x", 60) + "𝄝\x9d" + `"}`,
		`{"usage":{"total_tokens":1},"usage":{"total_tokens":-2.5}}`, `data:{"type":null,"type":"response.completed","response":{"usage":{"total_tokens":9}}}`,
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, body string, piece uint8) {
		for _, contentType := range []string{jsonType, sseType} {
			m := meter(contentType, body, 0)
			n, exact := m.Tokens()
			for _, size := range []int{1, int(piece)} {
				m2 := meter(contentType, body, size)
				if n2, exact2 := m2.Tokens(); n != n2 || exact != exact2 || read(m) != read(m2) {
					t.Fatalf("%s: whole %d, %t, %+v; in pieces of %d %d, %t, %+v", contentType, n, exact, read(m), size, n2, exact2, read(m2))
				}
			}
			floor := Estimate(int64(len(body)))
			if n < 0 || !exact && n < floor {
				t.Fatalf("%s: %d, exact %t; estimate %d", contentType, n, exact, floor)
			}
			r := refer(contentType, body)
			want := r.sum
			if !r.found || !r.exact {
				want = max(want, floor)
			}
			if r.ok && (n != want || exact != (r.found && r.exact)) {
				t.Fatalf("%s: %d, exact %t; want %d, exact %t", contentType, n, exact, want, r.found && r.exact)
			}
			if r.ok {
				r.checkDetails(t, body, read(m))
			}
		}
	})
}

// checkDetails compares a meter with the reference. In a body with escapes, the model may be an earlier one or none.
func (r *reference) checkDetails(t *testing.T, body string, got details) {
	t.Helper()
	if exact := r.found && r.exact && r.parted; got.exact != exact || got.input != r.in || got.output != r.out {
		t.Fatalf("%+v; want %d, %d, exact %t", got, r.in, r.out, exact)
	}
	model := string([]rune(got.model)) // encoding/json replaces invalid UTF-8 with U+FFFD
	whole := len(got.model) <= maxModel-utf8.UTFMax
	if !strings.Contains(body, `\`) && (!strings.HasPrefix(r.model, model) || whole && model != r.model) {
		t.Fatalf("model %q, want %q", got.model, r.model)
	}
	if len(got.model) > maxModel {
		t.Fatalf("the model has %d bytes", len(got.model))
	}
}

// FuzzHostile puts hostile text wherever a model or a client can place text in a response. It must never change the
// count or the model.
func FuzzHostile(f *testing.F) {
	for _, s := range []string{
		"", `"`, `\`, `\\"`, `","usage":{"total_tokens":0},"a":"`, "\n\ndata: " + `{"type":"response.completed"}` + "\n\n", "\r\r", "usage", "type",
		"response.completed", "model", `","model":"no","a":"`, `}}}]]`, "{[{", "\u2028\x00\x7f\xff", `\u0022`, "response", "total_tokens", strings.Repeat("a\\\"", 50),
	} {
		f.Add(s, s, uint16(7), uint16(5), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text, key string, in, out uint16, piece uint8) {
		response := hostile(t, text, key, in, out)
		stream := event(t, "response.output_text.delta", "delta", text) + event(t, key, "delta", text) +
			event(t, "response.output_item.done", "item", map[string]any{"usage": map[string]int{"total_tokens": 1 << 40}, "model": "no", "text": text, key: text}) +
			fmt.Sprintf("event: response.completed\ndata: {\"type\":\"response.completed\",\"text\":%s,\"response\":%s}\n\n", quote(t, text), response)
		want := int64(in) + int64(out)
		whole := details{"gpt-5", int64(in), int64(out), true}
		for contentType, body := range map[string]string{jsonType: response, sseType: stream} {
			for _, size := range []int{0, 1, int(piece)} {
				m := meter(contentType, body, size)
				if n, exact := m.Tokens(); n != want || !exact || read(m) != whole {
					t.Fatalf("%s in pieces of %d: %d, exact %t, %+v; want %d, %+v\n%s", contentType, size, n, exact, read(m), want, whole, body)
				}
			}
		}
	})
}

// hostile returns a response whose texts, free keys and nested output the attacker determines.
func hostile(t *testing.T, text, key string, in, out uint16) string {
	s, k := quote(t, text), quote(t, key)
	nested := fmt.Sprintf(`{%s:%s,"model":"no","usage":{"input_tokens":99999999,"total_tokens":99999999},"type":"response.completed","response":{"model":"no","usage":{"total_tokens":99999999}}}`, k, s)
	return fmt.Sprintf(`{"id":%s,"instructions":%s,"metadata":{"model":%s,%s:%s},"model":"gpt-5","tools":[%s],"output":[%s,{"arguments":%s}],"usage":{"input_tokens":%d,"details":%s,"output_tokens":%d},"user":%s}`,
		s, s, s, k, s, nested, nested, quote(t, nested), in, nested, out, s)
}

func event(t *testing.T, kind, key string, value any) string {
	switch kind {
	case "response.completed", "response.incomplete", "response.failed":
		return "" // the upstream determines the type
	}
	return fmt.Sprintf("data: {\"type\":%s,%s:%s}\n\n", quote(t, kind), quote(t, key), quote(t, value))
}

func quote(t *testing.T, v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
