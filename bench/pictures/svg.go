package main

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// A theme is the colours on one of GitHub's two backgrounds. Each has a contrast of 4.5 or more there, and blue and
// orange differ for readers with any form of colour blindness.
type theme struct {
	name                              string
	back, ink, faint, grid            string
	ours, original, other, onOriginal string
}

var (
	light = theme{
		name: "light", back: "#ffffff", ink: "#1f2328", faint: "#59636e", grid: "#d8dee4",
		ours: "#0068b8", original: "#b34700", other: "#59636e", onOriginal: "#ffffff",
	}
	dark = theme{
		name: "dark", back: "#0d1117", ink: "#f0f6fc", faint: "#9198a1", grid: "#2f353d",
		ours: "#58b4f0", original: "#ff9a52", other: "#9198a1", onOriginal: "#0d1117",
	}
)

// width is the width of all pictures, in px; GitHub shows them at about this size.
const width = 800

// A canvas is an SVG picture being drawn. It refers to nothing external: no script, and only the reader's fonts.
type canvas struct {
	strings.Builder
	theme
}

// newCanvas begins a picture. Title and desc are for screen readers.
func newCanvas(t theme, height int, title, desc string) *canvas {
	c := &canvas{theme: t}
	c.put(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" role="img" aria-labelledby="title desc">`, width, height)
	c.put(`<title id="title">%s</title>`, escape(title))
	c.put(`<desc id="desc">%s</desc>`, escape(desc))
	c.put(`<rect width="%d" height="%d" fill="%s"/>`, width, height, t.back)
	c.put(`<g font-family="-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif">`)
	c.text(16, 30, title, style{size: 17, fill: t.ink, bold: true})
	return c
}

// bytes ends the picture.
func (c *canvas) bytes() []byte {
	c.put("</g>")
	c.put("</svg>")
	return []byte(c.String())
}

func (c *canvas) put(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

// A style is the appearance of a text. Anchor is SVG's text-anchor; empty is start.
type style struct {
	size   int
	fill   string
	bold   bool
	anchor string
}

func (c *canvas) text(x, y float64, s string, st style) {
	more := ""
	if st.bold {
		more += ` font-weight="600"`
	}
	if st.anchor != "" {
		more += fmt.Sprintf(` text-anchor="%s"`, st.anchor)
	}
	c.put(`<text x="%s" y="%s" font-size="%d" fill="%s"%s>%s</text>`, px(x), px(y), st.size, st.fill, more, escape(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, stroke string, thick float64) {
	c.put(`<path d="M%s %sL%s %s" stroke="%s" stroke-width="%s"/>`, px(x1), px(y1), px(x2), px(y2), stroke, px(thick))
}

func (c *canvas) dot(x, y, r float64, fill string) {
	c.put(`<circle cx="%s" cy="%s" r="%s" fill="%s"/>`, px(x), px(y), px(r), fill)
}

// px formats a length with a tenth of a pixel, which hides differences in floating point between processors.
func px(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") }

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}
