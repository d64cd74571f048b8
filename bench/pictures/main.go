// pictures draws the charts of README.md and docs/benchmarks.md from the figures
// that compare and scripts/long-run.sh have saved. It reads events.json,
// copies.json and hour.csv in -dir, and writes NAME-light.svg and NAME-dark.svg
// of each beside them. The same figures always give the same bytes. Run it in
// the directory bench.
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
		name, ext string
		load      func(file string) (figures, error)
		draw      func(figures, theme) ([]byte, error)
	}{{"events", ".json", load, drawEvents}, {"copies", ".json", load, drawCopies}, {"hour", ".csv", loadHour, drawHour}} {
		got, err := chart.load(filepath.Join(dir, chart.name+chart.ext))
		if err != nil {
			return nil, err
		}
		for _, t := range []theme{light, dark} {
			svg, err := chart.draw(got, t)
			if err != nil {
				return nil, fmt.Errorf("%s%s: %w", chart.name, chart.ext, err)
			}
			drawn[chart.name+"-"+t.name+".svg"] = svg
		}
	}
	return drawn, nil
}
