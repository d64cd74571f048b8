package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/openaitest"
)

const (
	buildLimit = 3 * time.Minute // a machine that never built Go code takes its time
	showLimit  = time.Minute     // everything after that

	// The shown answer: as many lines as fit the screen, far enough apart to be
	// seen coming one by one.
	deltas     = 6
	deltaPause = 80 * time.Millisecond
	// deltaSize makes the stand-in's text one whole sentence.
	deltaSize = 276

	// crowd is how many clients ask at once before the thief looks.
	crowd = 50
)

// A stage is what the demo's steps share.
type stage struct {
	*screen
	key      string
	dir      string // temporary
	upstream *openaitest.Server
}

// demo runs the whole show and returns why it failed, if it did.
func demo(ctx context.Context, s *screen, proxy string) error {
	dir, err := os.MkdirTemp("", "responses-api-proxy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	st := &stage{screen: s, key: newKey(), dir: dir}
	s.printf("An OpenAI API key that is used by everybody and read by nobody\n")
	if proxy, err = st.build(ctx, proxy); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, showLimit, fmt.Errorf("it took longer than %v", showLimit))
	defer cancel()
	err = st.show(ctx, proxy)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return cause // the rest follows from it
	}
	return err
}

func (st *stage) show(ctx context.Context, proxy string) (err error) {
	// TLS, as at OpenAI; requests without the key are turned away.
	st.upstream, err = openaitest.Start(openaitest.Options{TLS: true, Key: st.key, Default: "sse n=5 d=20ms"})
	if err != nil {
		return err
	}
	defer st.upstream.Close()
	if err := os.WriteFile(st.caFile(), st.upstream.CAPEM(), 0o600); err != nil {
		return err
	}
	ours, err := st.startProxy(ctx, proxy)
	if err != nil {
		return err
	}
	defer ours.Close()
	if err := st.showStream(ctx, ours); err != nil {
		return fmt.Errorf("streaming through the proxy: %w", err)
	}
	if !canScan {
		st.printf("\nThe theft from a process's memory that should come now is shown on Linux only.\n")
		return nil
	}
	return st.showTheft(ctx, ours)
}

// showStream prints an answer as it comes in.
func (st *stage) showStream(ctx context.Context, p *child) error {
	st.printf("\nThe proxy has a made-up key of %d characters, and a stand-in for OpenAI behind\nit, over TLS. A client without a key asks, and reads the answer as it streams:\n", len(st.key))
	st.upstream.Script(fmt.Sprintf("sse n=%d s=%d d=%v", deltas, deltaSize, deltaPause))
	start := time.Now()
	var seen []arrival
	err := st.ask(ctx, newClient(), p.url(), func(a arrival) {
		seen = append(seen, a)
		st.arrival(a.at.Sub(start), a)
	})
	if err != nil {
		return err
	}
	if err := checkStream(seen); err != nil {
		return err
	}
	st.printf("  %s read while it was still being written; the upstream saw the right key\n", st.mark(true))
	return nil
}

// checkStream tells a stream from an answer that was collected first. Single
// events may be late on a busy machine.
func checkStream(seen []arrival) error {
	if len(seen) != deltas {
		return fmt.Errorf("%d events came, not %d", len(seen), deltas)
	}
	if first, last := seen[0], seen[deltas-1]; first.at.After(last.sent) {
		return errors.New("the first event came only after the last was sent")
	}
	return nil
}

// showTheft lets the thief have both proxies, after the same work.
func (st *stage) showTheft(ctx context.Context, ours *child) error {
	naive, err := st.startNaive(ctx)
	if err != nil {
		return err
	}
	defer naive.Close()
	st.printf("\n%d more clients at once. Then a thief (%s) looks for the key in the\nproxy, and in a plain httputil.ReverseProxy that had the same key and load:\n\n", crowd, whoami())
	if err := errors.Join(st.load(ctx, ours), st.load(ctx, naive)); err != nil {
		return err
	}
	inOurs, err := steal(ours.PID, st.key)
	if err != nil {
		return fmt.Errorf("the thief failed at the proxy: %w", err)
	}
	inNaive, err := steal(naive.PID, st.key)
	if err != nil {
		return fmt.Errorf("the thief failed at the ReverseProxy: %w", err)
	}
	st.table(inOurs, inNaive)
	h := host{root: os.Geteuid() == 0, yama: yama(), noSecretMemory: ours.Output.Line("the key lies in ")}
	if err := h.judge(inOurs, inNaive); err != nil {
		return err
	}
	st.printf("\n%s", h.notes(inOurs, inNaive))
	st.printf("%s %d answers came through the proxy, and its key was nowhere to be found\n", st.mark(true), crowd+1)
	return nil
}

func (st *stage) caFile() string { return filepath.Join(st.dir, "ca.pem") }

// newKey makes up a key of the length that OpenAI's have.
func newKey() string {
	return "sk-demo-" + rand.Text() + rand.Text() + rand.Text() + rand.Text()
}
