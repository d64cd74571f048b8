package metrics

import (
	"strconv"
	"strings"
)

// page is a scrape's answer in the making, in the text format 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/
type page struct{ text []byte }

// family begins the family name; its samples must follow. kind is "counter",
// "gauge" or "histogram".
func (p *page) family(name, kind, help string) {
	p.text = append(p.text, "# HELP "+name+" "...)
	p.text = escape(p.text, help, false)
	p.text = append(p.text, "\n# TYPE "+name+" "+kind+"\n"...)
}

// count writes a sample, and labels as pairs of name and value.
func (p *page) count(name string, n uint64, labels ...string) {
	p.series(name, labels)
	p.text = strconv.AppendUint(p.text, n, 10)
	p.text = append(p.text, '\n')
}

// number is count for what is no whole number, or below 0.
func (p *page) number(name string, n float64, labels ...string) {
	p.series(name, labels)
	p.text = append(p.text, float(n)...)
	p.text = append(p.text, '\n')
}

func (p *page) series(name string, labels []string) {
	p.text = append(p.text, name...)
	for i := 0; i < len(labels); i += 2 {
		p.text = append(p.text, "{,"[min(i, 1)])
		p.text = append(p.text, labels[i]...)
		p.text = append(p.text, '=', '"')
		p.text = escape(p.text, labels[i+1], true)
		p.text = append(p.text, '"')
	}
	if len(labels) > 0 {
		p.text = append(p.text, '}')
	}
	p.text = append(p.text, ' ')
}

// escape appends s so that it stays on its line, and between its quotation
// marks if it has any.
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
func float(n float64) string { return strconv.FormatFloat(n, 'g', -1, 64) }
