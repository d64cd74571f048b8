// Longrun runs two builds of the proxy side by side, a normal one and one with the race detector, under a modest mixed
// load, and checks that nothing is lost, that nothing grows, and that no part of a key can be read. scripts/long-run.sh
// builds what it needs and starts it, as root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	duration = flag.Duration("duration", time.Hour, "length of the load")
	dir      = flag.String("dir", "", "directory with the builds, and for all other files")
	output   = flag.String("csv", "", "file to write the samples to")
	rate     = flag.Float64("rate", 8, "requests a second for each build, on average")
	seed     = flag.Uint64("seed", 1, "seed of the load")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "longrun:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var builds []*build
	for _, b := range []struct{ name, protection string }{{"normal", "strict"}, {"race", "auto"}} { // with cgo there is no sandbox
		started, err := start(b.name, "--protection", b.protection)
		if err != nil {
			return err
		}
		defer started.kill()
		if err := started.warmUp(ctx); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		builds = append(builds, started)
	}
	loaded, end := context.WithTimeout(ctx, *duration)
	defer end()
	var all sync.WaitGroup
	for i, b := range builds {
		b.began = time.Now()
		all.Go(func() { b.load(loaded, *seed+uint64(i)) })
		all.Go(func() { each(loaded, *duration/15, b.rotate) })
		all.Go(func() { each(loaded, max(*duration/60, 5*time.Second), b.sample) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	var self unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &self)
	spent := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	fmt.Printf("%v of load, %s requests a second for each build, seed %d; clients, upstreams and scans took %.1f %% of a core\n",
		*duration, number(*rate), *seed, 100*spent.Seconds()/duration.Seconds())
	failed := writeCSV(builds)
	for _, b := range builds {
		b.finish()
		failed = errors.Join(failed, b.verdict())
	}
	return failed
}

// each calls do at intervals until ctx ends.
func each(ctx context.Context, every time.Duration, do func()) {
	tick := time.Tick(every)
	for {
		select {
		case <-tick:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// verdict prints the results of a build. The error counts what is not as it should be.
func (b *build) verdict() error {
	fmt.Printf("\n%s build: %d requests, %d rotations, %d scans of %d MiB on average, %.1f %% of a core\n", b.name, b.sent.Load(),
		b.confirmed.Load(), len(b.samples), b.scanned>>20/int64(max(len(b.samples), 1)), b.share)
	for _, k := range kinds {
		fmt.Printf("  %5d %s\n", b.counts[k.name], k.name)
	}
	for i, c := range columns {
		second, last := b.quarter(i, 1), b.quarter(i, 3)
		fmt.Printf("  %s: median of the second quarter %s, of the last %s; at rest %s before, %s after\n", c.name,
			number(second), number(last), number(b.before.values[i]), number(b.after.values[i]))
		// The race detector's own memory grows with each connection and goroutine, in any program.
		exempt := i == resident && b.name == "race"
		if !exempt && !(last <= max(second*1.1, second+c.slack)) {
			b.problem("%s grew", c.name)
		}
	}
	if b.failed > 0 {
		return fmt.Errorf("%s: %d problems; the logs are in %s", b.name, b.failed, *dir)
	}
	fmt.Println("  pass: every request ended as expected, nothing that is compared grew, no part of a key was readable, no race was reported")
	return nil
}

// quarter returns a column's median in one quarter of the samples, or NaN if there are too few. The first quarter is
// not compared: pools and caches fill in it.
func (b *build) quarter(column, number int) float64 {
	n := len(b.samples) / 4
	if n == 0 {
		return math.NaN()
	}
	var values []float64
	for _, s := range b.samples[number*n : (number+1)*n] {
		values = append(values, s.values[column])
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func writeCSV(builds []*build) error {
	text := []byte("build,second,requests,failed,copies")
	for _, c := range columns {
		text = append(text, ","+c.name...)
	}
	for _, b := range builds {
		for _, s := range b.samples {
			text = fmt.Appendf(text, "\n%s,%d,%d,%d,%d", b.name, s.second, s.requests, s.failed, s.copies)
			for _, v := range s.values {
				text = append(text, ","+number(v)...)
			}
		}
	}
	return os.WriteFile(*output, append(text, '\n'), 0o644)
}

func number(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") }
