package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Positions in the picture, in px.
const (
	hourLeft   = 60
	hourRight  = 640
	hourTop    = 96
	hourPanel  = 76 // height of one chart
	hourGap    = 40 // between two of them
	hourHeight = hourTop + 4*(hourPanel+hourGap) + 16
)

// hourColumns are the columns of hour.csv that are drawn, each with a chart of its own.
var hourColumns = []string{"resident MiB", "descriptors", "threads", "goroutines"}

// loadHour reads what scripts/long-run.sh writes: one row for each build and minute.
func loadHour(file string) (figures, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("%s: no rows, error %v", file, err)
	}
	got := figures{}
	for _, row := range rows[1:] {
		build := row[0]
		if got[build] == nil {
			got[build] = map[string][]float64{}
		}
		for i, name := range rows[0][1:] {
			v, err := strconv.ParseFloat(row[i+1], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			got[build][name] = append(got[build][name], v)
		}
	}
	return got, nil
}

// hourBuilds are the builds in the order of their descriptions.
func hourBuilds(t theme) []curve {
	return []curve{{contender: "normal", label: "normal build", colour: t.ours}, {contender: "race", label: "race detector", colour: t.original}}
}

func drawHour(f figures, t theme) ([]byte, error) {
	builds := hourBuilds(t)
	var requests, failed, copies float64
	for _, b := range builds {
		one := f[b.contender]
		if len(one["second"]) < 2 {
			return nil, fmt.Errorf("fewer than two samples of %s, measure it", b.contender)
		}
		requests += slices.Max(one["requests"])
		failed += slices.Max(one["failed"])
		copies += slices.Max(one["copies"])
	}
	if failed+copies > 0 {
		return nil, fmt.Errorf("%s requests or checks failed, %s copies, measure again", count(failed), count(copies))
	}
	title := fmt.Sprintf("%s requests in %s minutes: none lost, no readable copy of a key", count(requests), count(slices.Max(f["normal"]["second"])/60))
	c := newCanvas(t, hourHeight, title, describeHour(f, builds))
	c.text(16, 52, "Requests, streams, cancels, cuts, WebSockets, refused callers and replaced keys; a sample and a scan each minute.", style{size: 13, fill: t.faint})
	for i, column := range hourColumns {
		c.chart(f, builds, column, float64(hourTop+i*(hourPanel+hourGap)))
	}
	end := slices.Max(f["normal"]["second"])
	for minute := 0.0; minute*60 <= end; minute += 10 {
		c.text(hourLeft+minute*60/end*(hourRight-hourLeft), hourHeight-38, count(minute), style{size: 12, fill: t.faint, anchor: "middle"})
	}
	c.text((hourLeft+hourRight)/2, hourHeight-16, "minutes", style{size: 12, fill: t.faint, anchor: "middle"})
	return c.bytes(), nil
}

// chart draws one column of all builds, from 0 up, with its upper edge at top.
func (c *canvas) chart(f figures, builds []curve, column string, top float64) {
	most, end := 0.0, slices.Max(f["normal"]["second"])
	for _, b := range builds {
		most = max(most, slices.Max(f[b.contender][column]))
	}
	step := 5.0
	for most > 2*step {
		step *= 2
	}
	x := func(second float64) float64 { return hourLeft + second/end*(hourRight-hourLeft) }
	y := func(v float64) float64 { return top + hourPanel*(1-v/(2*step)) }
	c.text(16, top-10, strings.Replace(column, "resident MiB", "resident memory, MiB", 1), style{size: 12, fill: c.faint})
	for v := 0.0; v <= 2*step; v += step {
		c.line(hourLeft, y(v), hourRight, y(v), c.grid, 1)
		c.text(hourLeft-10, y(v)+4, count(v), style{size: 12, fill: c.faint, anchor: "end"})
	}
	for i, b := range builds {
		var path strings.Builder
		for j, v := range f[b.contender][column] {
			fmt.Fprintf(&path, "%c%s %s", "ML"[min(j, 1)], px(x(f[b.contender]["second"][j])), px(y(v)))
		}
		c.put(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), b.colour)
		values := f[b.contender][column]
		c.text(hourRight+16, top+hourPanel/2-8+float64(1-i)*22, b.label+": "+span(values), style{size: 12, fill: b.colour, bold: true})
	}
}

// describeHour describes the picture in words.
func describeHour(f figures, builds []curve) string {
	var b strings.Builder
	for _, k := range builds {
		fmt.Fprintf(&b, "%s:", k.label)
		for _, column := range hourColumns {
			fmt.Fprintf(&b, " %s %s,", column, span(f[k.contender][column]))
		}
		b.WriteString(" in all samples. ")
	}
	return strings.TrimSpace(b.String())
}

// span writes the range of values.
func span(values []float64) string {
	least, most := count(slices.Min(values)), count(slices.Max(values))
	if least == most {
		return least
	}
	return least + " to " + most
}
