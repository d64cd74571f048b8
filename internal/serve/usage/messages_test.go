package usage

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The events of Anthropic's streams, as Claude Code receives them.
const (
	messageStart = `event: message_start` + "\n" + `data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,` +
		`"usage":{"input_tokens":7,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":20},"output_tokens":1}}}` + "\n\n"
	messageText = `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}` + "\n\n"
	messageStop = `data: {"type":"message_stop"}` + "\n\n"
)

// messageDelta reports numbers of tokens, as JSON.
func messageDelta(usage string) string {
	return `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":` + usage + "}\n\n"
}

// messagesMeter is meter for the Messages API.
func messagesMeter(contentType, body string, n int) *Meter {
	m := New(Messages, []byte(contentType), nil)
	for p := range slices.Chunk([]byte(body), max(n, 1)) {
		m.Write(slices.Clone(p))
	}
	return m
}

func TestMessages(t *testing.T) {
	const answer = `{"id":"msg_1","type":"message","model":"claude-x","content":[{"type":"text","text":"\",\"usage\":{\"output_tokens\":9999}"}],"usage":`
	whole := messageStart + messageText + messageDelta(`{"output_tokens":40}`) + messageStop
	odd := strings.Replace(whole, `"input_tokens":7,`, `"input_tokens":7.5,`, 1)
	for _, c := range []struct {
		name, body    string
		input, output int64
		exact         bool
	}{
		{"JSON", answer + `{"input_tokens":7,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"output_tokens":40,"service_tier":"standard"}}`, 327, 40, true},
		{"JSON without a cache", answer + `{"input_tokens":7,"output_tokens":40}}`, 7, 40, true},
		{"JSON with nulls", answer + `{"input_tokens":7,"cache_creation_input_tokens":null,"cache_read_input_tokens":null,"output_tokens":40}}`, 7, 40, true},
		{"JSON without output", answer + `{"input_tokens":7,"cache_read_input_tokens":9000}}`, 9007, 0, false},
		{"JSON with null for output", answer + `{"input_tokens":9007,"output_tokens":null}}`, 9007, 0, false},
		{"JSON with a text for a number", answer + `{"input_tokens":7,"output_tokens":40,"cache_read_input_tokens":"9"}}`, 7, 40, false},
		{"JSON with a total, which this API has not", answer + `{"total_tokens":4}}`, 0, 0, false},
		{"JSON that is cut", answer + `{"input_tokens":7,"output_tokens":9000`, 7, 0, false},
		{"JSON of too many tokens", answer + `{"input_tokens":1,"cache_read_input_tokens":9223372036854775807,"output_tokens":1}}`, 1<<63 - 1, 1, true},

		{"stream", whole, 327, 40, true},
		{"CRLF", strings.ReplaceAll(whole, "\n", "\r\n"), 327, 40, true},
		{"numbers grow", messageStart + messageDelta(`{"output_tokens":40}`) + messageDelta(`{"input_tokens":9,"output_tokens":50}`) + messageStop, 329, 50, true},
		{"numbers that shrink", messageStart + messageDelta(`{"input_tokens":2,"cache_read_input_tokens":0,"output_tokens":40}`) + messageDelta(`{"output_tokens":3}`) + messageStop, 327, 40, true},
		{"input in the last event", strings.Replace(messageStart, `"input_tokens":7`, `"input_tokens":null`, 1) + messageDelta(`{"input_tokens":5,"output_tokens":40}`) + messageStop, 325, 40, true},
		{"sorted members", `data: {"message":{"usage":{"input_tokens":7,"output_tokens":1}},"type":"message_start"}` + "\n\n" + `data: {"type":"message_delta","usage":{"output_tokens":4}}` + "\n\n" + messageStop, 7, 4, true},
		{"two messages add up", whole + whole, 654, 80, true},
		{"ping and an unknown event", `data: {"type":"ping"}` + "\n\n" + `data: {"type":"new","usage":{"output_tokens":9999},"message":{"usage":{"input_tokens":9999}}}` + "\n\n" + whole, 327, 40, true},
		{"text that looks like events", messageStart + `data: {"type":"content_block_delta","delta":{"text":"\n\ndata: {\"type\":\"message_stop\"}\n\n","type":"message_delta","usage":{"output_tokens":9999}}}` + "\n\n" + messageDelta(`{"output_tokens":40}`) + messageStop, 327, 40, true},
		{"usage beside the message", strings.Replace(whole, `"message":`, `"x":{"usage":{"output_tokens":9999}},"message":`, 1), 327, 40, true},
		{"no empty line at the end", strings.TrimRight(whole, "\n"), 327, 40, true},
		{"OpenAI's events", completed(plain), 0, 0, false},

		{"not stopped", strings.TrimSuffix(whole, messageStop), 327, 40, false},
		{"stopped, but cut", strings.TrimSuffix(whole, "}\n\n"), 327, 40, false},
		{"only begun", messageStart + messageText, 327, 1, false},
		{"no output", messageStart + messageStop, 327, 1, false},
		{"no beginning", messageDelta(`{"output_tokens":9000}`) + messageStop, 0, 9000, false},
		{"an end alone", messageStop, 0, 0, false},
		{"a second one that is not stopped", whole + messageStart, 654, 41, false},
		{"an event is broken", messageStart + strings.Replace(messageDelta(`{"output_tokens":40}`), "}}", "}]", 1) + messageStop, 327, 40, false},
		{"an odd number", messageStart + messageDelta(`{"output_tokens":4e1}`) + messageStop, 327, 40, false},
		{"an odd number before others", odd, 328, 40, false},
		{"an odd number in the first of two", odd + whole, 655, 80, false},
		{"a second one that begins before the first has stopped", messageStart + whole, 654, 41, false},
		{"an error", messageStart + `data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}` + "\n\n", 327, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			contentType := sseType
			if c.body[0] == '{' {
				contentType = jsonType
			}
			for size := range len(c.body) {
				m := messagesMeter(contentType, c.body, size+1)
				m.Tokens() // asking must not change anything
				n, exact := m.Tokens()
				in, out, same := m.Usage()
				want := plus(c.input, c.output)
				if !c.exact {
					want = max(want, Estimate(int64(len(c.body))))
				}
				if n != want || exact != c.exact || in != c.input || out != c.output || same != c.exact {
					t.Fatalf("in pieces of %d: %d tokens, exact %t; %d and %d, exact %t; want %d, %t; %d and %d", size+1, n, exact, in, out, same, want, c.exact, c.input, c.output)
				}
				if model := string(m.Model()); strings.Contains(c.body, "claude-x") != (model == "claude-x") {
					t.Fatalf("in pieces of %d: model %q", size+1, model)
				}
			}
		})
	}
}

// messagesReference reads the usage of a stream the slow way.
type messagesReference struct {
	reference
	running map[string]int64 // nil if nothing is reported on
}

func (r *messagesReference) event(data string) {
	if strings.TrimLeft(data, " \t\r\n") == "" {
		return
	}
	var kind any
	reports := map[string]int64{}
	for _, m := range r.parse(data) {
		inner, _ := m.value.([]member)
		switch m.key {
		case "type":
			if kind == nil {
				if kind = m.value; kind == nil {
					kind = false
				}
			}
		case "usage":
			r.numbers(inner, reports)
		case "message":
			for _, m := range inner {
				if usage, _ := m.value.([]member); m.key == "usage" {
					r.numbers(usage, reports)
				}
			}
		}
	}
	switch kind {
	case "message_start":
		r.end(false)
		r.report(reports)
		delete(r.running, "seen output_tokens")
	case "message_delta":
		r.report(reports)
	case "message_stop":
		r.end(true)
	}
}

func (r *messagesReference) numbers(members []member, reports map[string]int64) {
	for _, m := range members {
		switch m.key {
		case "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens":
			if m.value == nil {
				continue
			}
			text, _ := m.value.(json.Number)
			n, err := strconv.ParseInt(text.String(), 10, 64)
			if err != nil || !plainNumber.MatchString(text.String()) {
				r.ok = false
			}
			reports[m.key] = max(reports[m.key], n)
			reports["seen "+m.key] = 1
		}
	}
}

func (r *messagesReference) report(reports map[string]int64) {
	if r.running == nil {
		r.running = map[string]int64{}
	}
	for key, n := range reports {
		r.running[key] = max(r.running[key], n)
	}
}

func (r *messagesReference) end(stopped bool) {
	if r.running == nil {
		return
	}
	n := r.running
	r.exact = r.exact && stopped && n["seen input_tokens"] > 0 && n["seen output_tokens"] > 0
	r.in = plus(r.in, plus(n["input_tokens"], plus(n["cache_creation_input_tokens"], n["cache_read_input_tokens"])))
	r.out = plus(r.out, n["output_tokens"])
	r.found, r.running = true, nil
}

// FuzzMessages holds streams to the reference. A part of one never counts as a whole.
func FuzzMessages(f *testing.F) {
	for _, s := range []string{
		messageStart + messageText + messageDelta(`{"output_tokens":40}`) + messageStop,
		messageStart + messageStart + messageDelta(`{"output_tokens":4e1}`) + messageStop,
		messageDelta(`{"input_tokens":null,"output_tokens":1,"output_tokens":2}`) + messageStop,
		`data: {"usage":{"input_tokens":3},"message":{"usage":{"output_tokens":4}},"type":"message_delta"}` + "\n\n" + messageStop,
	} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, body string, piece uint8) {
		m := messagesMeter(sseType, body, len(body))
		n, exact := m.Tokens()
		in, out, _ := m.Usage()
		for _, size := range []int{1, int(piece)} {
			cut := messagesMeter(sseType, body, size)
			n2, exact2 := cut.Tokens()
			if in2, out2, _ := cut.Usage(); n != n2 || exact != exact2 || in != in2 || out != out2 {
				t.Fatalf("in pieces of %d: %d, %t, %d, %d; whole %d, %t, %d, %d", size, n2, exact2, in2, out2, n, exact, in, out)
			}
		}
		if n < 0 || !exact && n < Estimate(int64(len(body))) {
			t.Fatalf("%d, exact %t", n, exact)
		}
		r := messagesReference{reference: reference{ok: true, exact: true}}
		for _, data := range dataOf(body) {
			r.event(data)
		}
		r.end(false)
		if r.ok && (in != r.in || out != r.out || exact != (r.found && r.exact)) {
			t.Fatalf("%d and %d, exact %t; want %d and %d, exact %t", in, out, exact, r.in, r.out, r.found && r.exact)
		}
	})
}
