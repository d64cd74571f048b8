package usage

import (
	"fmt"
	"strings"
	"testing"
)

// go test -run - -bench . ./internal/usage; one operation is one event or one
// answer.
func BenchmarkEvent(b *testing.B) {
	for _, size := range []int{100, 1000, 100_000} {
		const frame = `data: {"type":"response.output_text.delta","delta":""}` + "\n\n"
		event := []byte(strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1))
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := New([]byte(sseType), nil)
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
	m := New([]byte(sseType), nil)
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		m.Write(event)
	}
}
