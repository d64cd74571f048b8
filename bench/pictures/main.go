// pictures draws README.md's charts from the figures that compare has saved.
// It reads events.json and copies.json in -dir, and writes events-light.svg,
// events-dark.svg, copies-light.svg and copies-dark.svg beside them. The same
// figures always give the same bytes. Run it in the directory bench.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("dir", "../docs/pictures", "where the figures are, and the pictures go")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	drawn, err := drawAll(dir)
	if err != nil {
		return err
	}
	for name, svg := range drawn {
		if err := os.WriteFile(filepath.Join(dir, name), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// drawAll returns every picture by its file's name, from the figures in dir.
func drawAll(dir string) (map[string][]byte, error) {
	drawn := map[string][]byte{}
	for _, chart := range []struct {
		name string
		draw func(figures, theme) ([]byte, error)
	}{{"events", drawEvents}, {"copies", drawCopies}} {
		got, err := load(filepath.Join(dir, chart.name+".json"))
		if err != nil {
			return nil, err
		}
		for _, t := range []theme{light, dark} {
			svg, err := chart.draw(got, t)
			if err != nil {
				return nil, fmt.Errorf("%s.json: %w", chart.name, err)
			}
			drawn[chart.name+"-"+t.name+".svg"] = svg
		}
	}
	return drawn, nil
}
