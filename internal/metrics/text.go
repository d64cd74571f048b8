package metrics

import (
	"strconv"
	"strings"
)

// page is the body of a response to a scrape, in the text format 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/
type page struct {
	text []byte
	name string // of the family
}

// family begins a family; its samples must follow. kind is "counter", "gauge" or
// "histogram".
func (p *page) family(name, kind, help string) {
	p.name = name
	p.text = append(p.text, "# HELP "+name+" "...)
	p.text = escape(p.text, help, false)
	p.text = append(p.text, "\n# TYPE "+name+" "+kind+"\n"...)
}

// sample writes a sample of the family. suffix is for those of a histogram, and
// labels are pairs of name and value.
func (p *page) sample(suffix string, n float64, labels ...string) {
	p.text = append(p.text, p.name+suffix...)
	for i := 0; i < len(labels); i += 2 {
		p.text = append(p.text, "{,"[min(i, 1)])
		p.text = append(p.text, labels[i]+`="`...)
		p.text = escape(p.text, labels[i+1], true)
		p.text = append(p.text, '"')
	}
	if len(labels) > 0 {
		p.text = append(p.text, '}')
	}
	p.text = append(p.text, " "+float(n)+"\n"...)
}

// escape appends s so that it stays on its line and, with quoted, between its
// quotation marks.
func escape(text []byte, s string, quoted bool) []byte {
	for _, c := range []byte(strings.ToValidUTF8(s, "\uFFFD")) {
		switch {
		case c == '\n':
			text = append(text, '\\', 'n')
		case c == '\\' || c == '"' && quoted:
			text = append(text, '\\', c)
		default:
			text = append(text, c)
		}
	}
	return text
}

// float writes a number as Prometheus reads it, +Inf and NaN included.
func float(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }
