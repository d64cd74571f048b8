//go:build unix

package upstream

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

var codexFields = []http1.Field{
	{Name: []byte("accept"), Value: []byte("text/event-stream")},
	{Name: []byte("content-type"), Value: []byte("application/json")},
	{Name: []byte("originator"), Value: []byte("codex_exec")},
	{Name: []byte("user-agent"), Value: []byte("codex_exec/0.169.0 (Debian 12; x86_64)")},
	{Name: []byte("x-codex-turn-metadata"), Value: []byte(strings.Repeat("m", 800))},
}

// BenchmarkRequest is one request and its response over TLS on loopback, including the fake upstream's work: with the
// key in secret memory, and with a plain header from the heap as any other client sends it.
func BenchmarkRequest(b *testing.B) {
	for name, send := range map[string]sender{"secret": (*Client).Do, "plain": (*Client).doPlain} {
		b.Run(name, func(b *testing.B) {
			_, c := serve(b, openaitest.Options{TLS: true, Forget: true})
			r := &Request{Start: make([]byte, 1024), Length: 1024}
			b.ReportAllocs()
			for b.Loop() {
				roundTrip(b, c, send, r)
			}
		})
	}
}

// BenchmarkPriceOfSecrecy alternates between the two in one process, a hundred requests each, and reports the
// additional cost of secret memory: the median over all pairs of turns, since the machine may slow down in any of them.
func BenchmarkPriceOfSecrecy(b *testing.B) {
	for name, tls := range map[string]bool{"https": true, "http": false} {
		b.Run(name, func(b *testing.B) {
			_, c := serve(b, openaitest.Options{TLS: tls, Forget: true})
			r := &Request{Start: make([]byte, 1024), Length: 1024}
			var more, plain, allocs []float64
			for i := 0; b.Loop(); i++ {
				const turn = 100
				var costs [2]cost
				for j := range 2 {
					which := (i + j) % 2 // each goes first in every other pair
					send := [2]sender{(*Client).doPlain, (*Client).Do}[which]
					costs[which].add(func() { repeat(b, turn, c, send, r) })
				}
				more = append(more, (costs[1].cpu-costs[0].cpu).Seconds()*1e6/turn)
				plain = append(plain, costs[0].cpu.Seconds()*1e6/turn)
				allocs = append(allocs, (float64(costs[1].allocs)-float64(costs[0].allocs))/turn)
			}
			b.ReportMetric(median(more), "µs-CPU-more/request")
			b.ReportMetric(median(plain), "µs-CPU-plain/request")
			b.ReportMetric(median(allocs), "allocs-more/request")
		})
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

type sender func(*Client, context.Context, *Request) (*Response, error)

func repeat(b *testing.B, n int, c *Client, send sender, r *Request) {
	for range n {
		roundTrip(b, c, send, r)
	}
}

func roundTrip(b *testing.B, c *Client, send sender, r *Request) {
	r.Fields = codexFields
	res, err := send(c, context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	for err == nil {
		_, err = res.Next()
	}
	res.Close()
}

// cost is CPU time and allocations of this process.
type cost struct {
	cpu    time.Duration
	allocs uint64
}

func (c *cost) add(f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := cpuTime()
	f()
	c.cpu += cpuTime() - begun
	runtime.ReadMemStats(&after)
	c.allocs += after.Mallocs - before.Mallocs
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// doPlain is Do with the key in an ordinary header, for comparison.
func (c *Client) doPlain(ctx context.Context, r *Request) (*Response, error) {
	cn, reused, err := c.connectionFor(ctx, r)
	if err != nil {
		return nil, err
	}
	if plainStarts[cn] == nil {
		plainStarts[cn] = func(fd uintptr) bool { return cn.current.startPlain(fd) }
	}
	start := cn.start
	defer func() { cn.start = start }()
	cn.start = plainStarts[cn]
	return c.exchange(ctx, cn, r, reused)
}

var plainStarts = map[*conn]func(fd uintptr) bool{} // as a conn has its own

// startPlain is start with the key in an ordinary header.
func (r *Response) startPlain(fd uintptr) (done bool) {
	if r.started {
		return true
	}
	r.started = true
	if r.Reused && !socket.Quiet(fd) {
		r.headErr = errNotIdle
		return true
	}
	buf := heads.Get().(*[]byte)
	defer heads.Put(buf)
	*buf = r.client.appendLine((*buf)[:0], r.request)
	*buf = append(*buf, "authorization: Bearer "+canary+"\r\n"...)
	*buf = append(r.request.appendFields(*buf), r.request.Start...)
	_, r.headErr = r.c.send(*buf)
	return r.headErr != nil
}
