package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Positions in the picture, in px.
const (
	copiesHeight = 412
	copiesLeft   = 56
	copiesRight  = 570
	copiesTop    = 104
	copiesBottom = 336
)

// atOnce are the numbers of streams that compare runs.
var atOnce = []int{1, 2, 4, 8, 16, 32, 64}

// A curve belongs to one contender, with a mark for each point.
type curve struct {
	contender, label, note string
	colour                 string
	mark                   func(c *canvas, x, y float64, colour string)
	bold                   bool
	copies                 []float64
	fragments              float64 // of all points
}

func drawCopies(f figures, t theme) ([]byte, error) {
	curves := []curve{
		{contender: "anchor", label: "the original", note: "codex responses-api-proxy", colour: t.original, mark: square, bold: true},
		{contender: "naive", label: "httputil.ReverseProxy", note: "a plain one, in Go", colour: t.other, mark: diamond},
		{contender: "ours", label: "responses-api-proxy", colour: t.ours, mark: circle, bold: true},
	}
	for i := range curves {
		if err := curves[i].fill(f); err != nil {
			return nil, err
		}
	}
	most := atOnce[len(atOnce)-1]
	title := fmt.Sprintf("%d requests at once: %s readable copies of the key in the original, %s here", most, curves[0].last(), curves[2].last())
	c := newCanvas(t, copiesHeight, title, describeCopies(curves))
	c.text(16, 52, "Copies that root finds through /proc/PID/mem while the streams are open; a new process for each point.", style{size: 13, fill: t.faint})
	c.text(16, 84, "readable copies of the key", style{size: 12, fill: t.faint})
	x, y := copiesAxes(c, curves)
	for _, k := range slices.Backward(curves) { // the original's over the other's, which lies close to it
		k.draw(c, x, y)
	}
	labelCurves(c, curves, y)
	c.text((copiesLeft+copiesRight)/2, copiesBottom+36, "streams open at once", style{size: 12, fill: t.faint, anchor: "middle"})
	after, err := f.value("anchor", fmt.Sprintf("copies%d.after_copies", most))
	c.text(16, copiesHeight-12, fmt.Sprintf("Upstream over TLS. Medians of %d rounds. When the %d streams have ended, the original still holds %s.",
		f.rounds("ours", "copies1.open_copies"), most, count(after)), style{size: 12, fill: t.faint})
	return c.bytes(), err
}

func (k *curve) fill(f figures) error {
	for _, n := range atOnce {
		v, err := f.value(k.contender, fmt.Sprintf("copies%d.open_copies", n))
		if err != nil {
			return err
		}
		part, err := f.value(k.contender, fmt.Sprintf("copies%d.open_fragments", n))
		if err != nil {
			return err
		}
		k.copies = append(k.copies, v)
		k.fragments += part
	}
	return nil
}

func (k *curve) last() string { return count(k.copies[len(k.copies)-1]) }

// copiesAxes draws the axes, and returns the positions of a number of streams and of copies.
func copiesAxes(c *canvas, curves []curve) (x, y func(float64) float64) {
	most := 1.0
	for _, k := range curves {
		most = max(most, slices.Max(k.copies))
	}
	step := 20.0
	for most/step > 6 {
		step *= 2
	}
	top := math.Ceil(most/step) * step
	x = func(n float64) float64 {
		return copiesLeft + n/float64(atOnce[len(atOnce)-1])*(copiesRight-copiesLeft)
	}
	y = func(n float64) float64 { return copiesBottom - n/top*(copiesBottom-copiesTop) }
	for n := 0.0; n <= top; n += step {
		c.line(copiesLeft, y(n), copiesRight, y(n), c.grid, 1)
		c.text(copiesLeft-10, y(n)+4, count(n), style{size: 12, fill: c.faint, anchor: "end"})
	}
	for _, n := range atOnce {
		if n == 2 {
			continue // no space between 1 and 4
		}
		c.text(x(float64(n)), copiesBottom+19, fmt.Sprint(n), style{size: 12, fill: c.faint, anchor: "middle"})
	}
	return x, y
}

func (k *curve) draw(c *canvas, x, y func(float64) float64) {
	var path strings.Builder
	for i, n := range atOnce {
		verb := "L"
		if i == 0 {
			verb = "M"
		}
		fmt.Fprintf(&path, "%s%s %s", verb, px(x(float64(n))), px(y(k.copies[i])))
	}
	c.put(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), k.colour)
	for i, n := range atOnce {
		k.mark(c, x(float64(n)), y(k.copies[i]), k.colour)
	}
}

func circle(c *canvas, x, y float64, colour string) { c.dot(x, y, 4.5, colour) }

func square(c *canvas, x, y float64, colour string) {
	c.put(`<rect x="%s" y="%s" width="7" height="7" fill="%s"/>`, px(x-3.5), px(y-3.5), colour)
}

// diamond draws a hollow mark that is larger than the others, so that both are visible.
func diamond(c *canvas, x, y float64, colour string) {
	c.put(`<path d="M%s %sl8 8l-8 8l-8 -8z" fill="none" stroke="%s" stroke-width="2"/>`, px(x), px(y-8), colour)
}

// labelCurves writes each curve's mark and name at its end, from the top down, with space between them.
func labelCurves(c *canvas, curves []curve, y func(float64) float64) {
	const gap = 44
	sorted := slices.Clone(curves)
	slices.SortStableFunc(sorted, func(a, b curve) int { return int(b.copies[len(b.copies)-1] - a.copies[len(a.copies)-1]) })
	least := 0.0
	for _, k := range sorted {
		at := max(y(k.copies[len(k.copies)-1]), least)
		k.mark(c, copiesRight+28, at-4, k.colour)
		c.text(copiesRight+42, at+1, k.label+": "+k.last(), style{size: 14, fill: k.colour, bold: k.bold})
		if k.note != "" {
			c.text(copiesRight+42, at+17, k.note, style{size: 11, fill: c.faint})
		}
		least = at + gap
	}
}

// describeCopies describes the picture in words.
func describeCopies(curves []curve) string {
	var b strings.Builder
	for _, k := range curves {
		fmt.Fprintf(&b, "%s:", k.label)
		for i, n := range atOnce {
			fmt.Fprintf(&b, " %s copies at %d,", count(k.copies[i]), n)
		}
		fmt.Fprintf(&b, " and %s parts of the key. ", count(k.fragments))
	}
	return strings.TrimSpace(b.String())
}
