// Control sends requests to a server of net/http, each on a new connection, and prints resident memory beside Go's own.
// It contains no code of the proxy: with -race its resident memory grows as the proxy's does, and without it does not.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"time"
)

func main() {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, strings.Repeat("x", 400))
	}))
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(16 * time.Millisecond)
	for i := range 15001 {
		if i%1000 == 0 {
			report(i)
		}
		<-tick.C
		res, err := c.Post(s.URL, "text/plain", strings.NewReader(strings.Repeat("y", 10000)))
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

func report(requests int) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status")
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	rss, _, _ = strings.Cut(rss, "\n")
	fmt.Printf("%5d requests: resident %s, Go's own %d kB\n", requests, strings.TrimSpace(rss), (m.Sys-m.HeapReleased)>>10)
}
