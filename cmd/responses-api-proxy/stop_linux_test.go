package main

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStopDuringStreams checks that streams that run when SIGTERM arrives are
// complete, that new connections are refused, and that the exit code is 0.
func TestStopDuringStreams(t *testing.T) {
	t.Parallel()
	const streams, events = 200, 60
	r := launchWith(t, clockUpstream(t, events, 25*time.Millisecond))
	client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	began, ended := make(chan struct{}, streams), make(chan int, streams)
	for range streams {
		go func() {
			late, err := r.delaysFrom(client, func() { began <- struct{}{} })
			if err != nil {
				t.Error(err)
			}
			ended <- len(late)
		}()
	}
	for range streams {
		<-began
	}
	r.cmd.Process.Signal(unix.SIGTERM)
	at, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", at.Host)
		if err != nil {
			break // no new connections
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("it still takes connections")
		}
	}
	var got []int
	for range streams {
		got = append(got, <-ended)
	}
	if slices.ContainsFunc(got, func(n int) bool { return n != events }) {
		t.Errorf("streams had %v events, want %d each", got, events)
	}
	if state, err := r.cmd.Process.Wait(); err != nil || state.ExitCode() != 0 {
		t.Errorf("it ended with %v (%v)", state, err)
	}
}
