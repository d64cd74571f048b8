package usage

import (
	"fmt"
	"strings"
	"testing"
)

// go test -run - -bench . ./internal/serve/usage; one operation is one event or one
// answer.
func BenchmarkEvent(b *testing.B) {
	for _, size := range []int{100, 1000, 100_000} {
		const frame = `data: {"type":"response.output_text.delta","delta":""}` + "\n\n"
		event := []byte(strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1))
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := New(Responses, []byte(sseType), nil)
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				m.Write(event)
			}
		})
	}
}

// BenchmarkCompleted reads an event that must be followed to its end, with text
// full of escapes.
func BenchmarkCompleted(b *testing.B) {
	text := strings.Repeat(`if err != nil {\n\treturn fmt.Errorf(\"no: %w\", err)\n}\n`, 400)
	event := []byte(`data: {"type":"response.completed","response":{"output":[{"text":"` + text + `"}],"usage":` + plain + "}}\n\n")
	m := New(Responses, []byte(sseType), nil)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		m.Write(event)
	}
}

// BenchmarkAnswer reads a JSON answer with a text of 8 KB.
func BenchmarkAnswer(b *testing.B) {
	text := strings.Repeat(`The quick brown fox\njumps over \"the\" lazy dog and goes on. `, 128)
	body := []byte(`{"id":"resp_1","object":"response","status":"completed","model":"gpt-5","output":[{"type":"message","content":[{"type":"output_text","text":"` +
		text + `"}]}],"metadata":{},"usage":` + plain + `}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		m := New(Responses, []byte(jsonType), nil)
		m.Write(body)
		m.Tokens()
	}
}

// BenchmarkStream reads a whole stream of 200 short events.
func BenchmarkStream(b *testing.B) {
	delta := `data: {"type":"response.output_text.delta","item_id":"msg_1","output_index":0,"delta":" word","sequence_number":7}` + "\n\n"
	body := []byte(created + strings.Repeat("event: response.output_text.delta\n"+delta, 200) +
		`data: {"type":"response.completed","response":{"id":"r","model":"gpt-5","output":[{"text":"` + strings.Repeat("word ", 200) + `"}],"usage":` + plain + "}}\n\n")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		m := New(Responses, []byte(sseType), nil)
		m.Write(body)
		m.Tokens()
	}
}
