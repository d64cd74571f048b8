package main

import (
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/bench/internal/bench"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
)

// arrivals runs one paced stream and records when each event arrived, in µs after the request. An event is about as
// long as one word of a Responses stream.
func arrivals(s string) {
	n := scaled(120)
	var (
		e events
		t = bench.Mono()
	)
	e.arrived = func(i int, at int64) {
		out[fmt.Sprintf("%s.event_%03d_us", s, i+1)] = math.Round(float64(at-t) / 1e3)
	}
	_, _, err := open(fmt.Sprintf("sse n=%d s=200 d=50ms", n), n, &e)
	out[s+".bad"] = 0
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", s, err)
		out[s+".bad"] = 1
	}
	percentiles(s+".delay", e.delays)
}

// copies opens c streams, each when the one before it has begun, so that no contender can delay any of them. It counts
// the copies of the key in the process's memory while all of them run and after they have ended. An event is longer
// than any contender's buffer (README.md), so that each stream begins at once.
func copies(s string, c int) {
	if *pid == 0 {
		return
	}
	var (
		ended   atomic.Int64
		bad     atomic.Int64
		streams sync.WaitGroup
	)
	for range c {
		begun := make(chan bool)
		streams.Go(func() {
			defer ended.Add(1)
			e := events{begun: sync.OnceFunc(func() { close(begun) })}
			defer e.begun()
			const n = 6
			if _, _, err := open(fmt.Sprintf("sse n=%d s=9000 d=1s", n), n, &e); err != nil {
				bad.Add(1)
				fmt.Fprintln(os.Stderr, "load:", s, err)
			}
		})
		<-begun
	}
	scan(s + ".open")
	if gone := ended.Load(); gone > 0 {
		bad.Add(gone)
		fmt.Fprintf(os.Stderr, "load: %s: %d streams ended before the scan did\n", s, gone)
	}
	streams.Wait()
	time.Sleep(200 * time.Millisecond) // the proxy may detect the end of the last stream later than load
	scan(s + ".after")
	out[s+".bad"] = float64(bad.Load())
}

// scan runs the main module's program scan to search for -secret.
func scan(name string) {
	for _, p := range pids {
		found, err := memscan.Process(p, []byte(*secret))
		if err != nil {
			fatal(err)
		}
		out[name+"_copies"] += float64(found.Full)
		out[name+"_fragments"] += float64(found.Fragments)
		out[name+"_scanned_mb"] += mb(float64(found.Bytes))
	}
}
