package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const pictures = "../../docs/pictures"

func drawn(t *testing.T) map[string][]byte {
	t.Helper()
	got, err := drawAll(pictures)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestCommitted compares the committed pictures with their figures.
func TestCommitted(t *testing.T) {
	for name, want := range drawn(t) {
		got, err := os.ReadFile(filepath.Join(pictures, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what its figures give (error %v): go run ./pictures in bench", name, err)
		}
	}
}

// TestSelfContained allows only what GitHub shows of a picture: no script, no link, no external style or font, and a
// title and a description.
func TestSelfContained(t *testing.T) {
	allowed := []string{"svg", "title", "desc", "g", "rect", "path", "circle", "text"}
	for name, svg := range drawn(t) {
		seen := map[string]bool{}
		eachElement(t, name, svg, func(e xml.StartElement) {
			seen[e.Name.Local] = true
			if !slices.Contains(allowed, e.Name.Local) {
				t.Errorf("%s: element %s", name, e.Name.Local)
			}
			for _, a := range e.Attr {
				if a.Name.Local != "xmlns" && (strings.Contains(a.Value, "//") || strings.Contains(a.Value, "url(")) {
					t.Errorf("%s: %s=%q", name, a.Name.Local, a.Value)
				}
			}
		})
		if !seen["title"] || !seen["desc"] {
			t.Errorf("%s: no title or no description", name)
		}
	}
}

func eachElement(t *testing.T, name string, svg []byte, f func(xml.StartElement)) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e, ok := token.(xml.StartElement); ok {
			f(e)
		}
	}
}

// TestContrast: every colour of text has WCAG's contrast of 4.5 to its background.
func TestContrast(t *testing.T) {
	for _, th := range []theme{light, dark} {
		for _, c := range [][2]string{
			{th.ink, th.back}, {th.faint, th.back}, {th.ours, th.back},
			{th.original, th.back}, {th.other, th.back}, {th.onOriginal, th.original},
		} {
			if got := contrast(t, c[0], c[1]); got < 4.5 {
				t.Errorf("%s: %s on %s: %.2f", th.name, c[0], c[1], got)
			}
		}
	}
}

// contrast is WCAG 2.2's contrast ratio of two colours like #0068b8.
func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(t *testing.T, colour string) (l float64) {
	t.Helper()
	rgb, err := strconv.ParseUint(colour[1:], 16, 24)
	if err != nil {
		t.Fatal(err)
	}
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		v := float64(rgb>>(16-8*i)&0xff) / 255
		if v <= 0.04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		l += weight * v
	}
	return l
}

// TestUnsound: figures of failed requests are refused.
func TestUnsound(t *testing.T) {
	for _, c := range []struct{ name, events, want string }{
		{"failed", `{"ours":{"arrivals.bad":[0,1,0]}}`, "measure again"},
		{"empty", `{}`, "measure it"},
		{"no events", `{"anchor":{"arrivals.delay_max_us":[1]},"direct":{"arrivals.delay_p50_us":[1]}}`, "scenario arrivals"},
		{"not JSON", `{`, "events.json"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "events.json"), []byte(c.events), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if svg, _ := filepath.Glob(filepath.Join(dir, "*.svg")); svg != nil {
			t.Errorf("%s: it drew %q", c.name, svg)
		}
	}
}
