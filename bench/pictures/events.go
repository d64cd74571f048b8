package main

import (
	"fmt"
	"math"
	"strings"
)

// A row is one contender's line of the picture.
type row struct {
	contender, label, note string
	colour                 string
	bold                   bool
}

// Positions in the picture, in px.
const (
	eventsHeight = 342
	eventsLeft   = 186 // the request
	eventsRight  = 634 // the end of the time axis
	eventsTop    = 112 // the first row
	eventsRow    = 44
	eventsPerDot = 1.6 // the radius of one event's dot; the area grows with the events
)

// minLabelled is the number of events from which a dot is labelled with it.
const minLabelled = 30

// together is the maximum distance, in s, of events that count as one arrival: a fifth of the time between two of them.
const together = 0.010

// A burst is events that arrived together.
type burst struct {
	at float64 // s after the request
	n  int
}

func drawEvents(f figures, t theme) ([]byte, error) {
	rows := []row{
		{"direct", "direct", "no proxy", t.other, false},
		{"ours", "responses-api-proxy", "", t.ours, true},
		{"nginx1", "nginx", "proxy_buffering off", t.other, false},
		{"anchor", "the original", "codex responses-api-proxy", t.original, true},
	}
	longest, err := f.value("anchor", "arrivals.delay_max_us")
	if err != nil {
		return nil, err
	}
	title := fmt.Sprintf("Events arrive as they are sent; the original holds them back for up to %.1f s", longest/1e6)
	desc, err := describeEvents(f, rows)
	if err != nil {
		return nil, err
	}
	n := len(arrivals(f, "direct"))
	c := newCanvas(t, eventsHeight, title, desc)
	c.text(16, 52, fmt.Sprintf("When each event of one stream reaches the client: %d events of 200 bytes, one every 50 ms, upstream over TLS.", n), style{size: 13, fill: t.faint})
	c.text(784, 84, "median delay of an event", style{size: 12, fill: t.faint, anchor: "end"})
	bottom := eventsTop + eventsRow*float64(len(rows)) - eventsRow/2
	axis := timeAxis(c, f, bottom)
	for i, r := range rows {
		if err := drawRow(c, f, r, eventsTop+eventsRow*float64(i), axis); err != nil {
			return nil, err
		}
	}
	c.text((eventsLeft+eventsRight)/2, bottom+36, "seconds after the request", style{size: 12, fill: t.faint, anchor: "middle"})
	c.text(16, eventsHeight-12, fmt.Sprintf("A small dot is one event; a large one is as many at once as it says. Medians of %d rounds, on 2 cores.",
		f.rounds("direct", "arrivals.delay_p50_us")), style{size: 12, fill: t.faint})
	return c.bytes(), nil
}

// timeAxis draws a line for each second, and returns the position of a time.
func timeAxis(c *canvas, f figures, bottom float64) func(s float64) float64 {
	last := 1.0
	for contender := range f {
		for _, at := range arrivals(f, contender) {
			last = max(last, at)
		}
	}
	last = math.Ceil(last - 0.2) // slightly more than the last line is not a new second
	at := func(s float64) float64 { return eventsLeft + s/last*(eventsRight-eventsLeft) }
	for s := 0.0; s <= last; s++ {
		c.line(at(s), eventsTop-eventsRow/2, at(s), bottom, c.grid, 1)
		c.text(at(s), bottom+17, fmt.Sprintf("%.0f", s), style{size: 12, fill: c.faint, anchor: "middle"})
	}
	return at
}

func drawRow(c *canvas, f figures, r row, y float64, axis func(float64) float64) error {
	label := y + 5
	if r.note != "" {
		label = y - 1
		c.text(16, y+14, r.note, style{size: 11, fill: c.faint})
	}
	c.text(16, label, r.label, style{size: 14, fill: r.colour, bold: r.bold})
	bursts := gather(arrivals(f, r.contender))
	for _, b := range bursts {
		radius := eventsPerDot * math.Sqrt(float64(b.n))
		c.dot(axis(b.at), y, radius, r.colour)
		if b.n >= minLabelled {
			c.text(axis(b.at), y+4, fmt.Sprint(b.n), style{size: 11, fill: c.onOriginal, bold: true, anchor: "middle"})
		}
	}
	if first := bursts[0]; first.at > 0.5 {
		c.text((axis(0)+axis(first.at))/2, y+4, fmt.Sprintf("nothing for %.1f s", first.at), style{size: 12, fill: r.colour, anchor: "middle"})
	}
	delay, err := medianDelay(f, r.contender)
	c.text(784, y+5, delay, style{size: 13, fill: r.colour, bold: r.bold, anchor: "end"})
	return err
}

// arrivals returns when each event arrived, in s after the request.
func arrivals(f figures, contender string) (at []float64) {
	for {
		us, err := f.value(contender, fmt.Sprintf("arrivals.event_%03d_us", len(at)+1))
		if err != nil {
			return at
		}
		at = append(at, us/1e6)
	}
}

func gather(at []float64) (bursts []burst) {
	for i, s := range at {
		if i == 0 || s-at[i-1] > together {
			bursts = append(bursts, burst{at: s})
		}
		bursts[len(bursts)-1].n++
	}
	return bursts
}

// medianDelay omits the longest delays, which the tables have: on a busy machine they measure its other work.
func medianDelay(f figures, contender string) (string, error) {
	us, err := f.value(contender, "arrivals.delay_p50_us")
	return millis(us/1e3) + " ms", err
}

// describeEvents describes the picture in words.
func describeEvents(f figures, rows []row) (string, error) {
	var b strings.Builder
	for _, r := range rows {
		delay, err := medianDelay(f, r.contender)
		if err != nil {
			return "", err
		}
		bursts := gather(arrivals(f, r.contender))
		if len(bursts) == 0 {
			return "", fmt.Errorf("no events of %s, measure the scenario arrivals", r.contender)
		}
		fmt.Fprintf(&b, "%s: the events come in %d pieces, the first %.2f s after the request; an event is %s late (median). ",
			r.label, len(bursts), bursts[0].at, delay)
	}
	return strings.TrimSpace(b.String()), nil
}
