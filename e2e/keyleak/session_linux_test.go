package keyleak

import (
	"bytes"
	"crypto/tls"
	"regexp"
	"slices"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// keyLogLine is a line of the key log of a TLS session: a label, the client's
// random number and a secret, in hexadecimal digits.
var keyLogLine = regexp.MustCompile(`(?m)^((?:CLIENT|SERVER)_TRAFFIC_SECRET_0|CLIENT_RANDOM) ([0-9a-f]{64}) ([0-9a-f]{64,96})$`)

// TestSessionSecretsAsText scans for the secrets of TLS sessions in the form
// in which crypto/tls writes a key log. The upstream's key log has the same
// lines.
func TestSessionSecretsAsText(t *testing.T) {
	needRoot(t)
	for _, w := range []wire{modern, legacy} {
		t.Run(w.name, func(t *testing.T) {
			log := &tape{}
			upstream, err := openaitest.Start(openaitest.Options{Key: string(key), TLS: true, TLSMin: w.tls, TLSMax: w.tls, Forget: true, KeyLog: log})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(upstream.Close)
			args := append([]string{"--upstream-url", upstream.URL(), "--ca-file", certFile(t, upstream.CAPEM())}, w.args...)
			r := &rig{process: launch(t, "", nil, args...), ctx: deadline(t), upstream: upstream, client: newClient(t)}
			for range 4 { // the last connections stay open
				r.upstream.CloseIdle()
				if err := r.expect(60, 30, "sse n=5", 200); err != nil {
					t.Fatal(err)
				}
			}
			r.rest(t)
			r.seen(t)
			r.noKeyLog(t)
			sessions := keyLogLine.FindAllSubmatch(log.copy(), -1)
			// A resumed session of TLS 1.2 has the secret of the one before it and no
			// line of its own: there may be one line for all connections.
			if len(sessions) == 0 || w.tls == tls.VersionTLS13 && len(sessions) < 40 || upstream.Open() == 0 {
				t.Fatalf("%d secrets and %d open connections: too few for a proof", len(sessions), upstream.Open())
			}
			for _, s := range sessions[max(0, len(sessions)-16):] {
				if got := r.scan(t, s[3]); got.Full+got.Fragments > 0 {
					t.Errorf("%s: digits of the secret: %s", s[1], counts(got))
				}
			}
			r.clean(t, "at the end")
			r.stop(t)
		})
	}
}

// noKeyLog scans for labels of a key log that are followed by digits.
func (r *rig) noKeyLog(t *testing.T) {
	t.Helper()
	memory, err := memscan.Open(r.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	label := regexp.MustCompile(`^[0-9a-f]{16}`)
	var before []byte // the end of the previous piece
	var next uint64
	found := 0
	_, err = memory.Each(func(addr uint64, p []byte) {
		if addr != next {
			before = nil
		}
		next = addr + uint64(len(p))
		all := slices.Concat(before, p)
		for _, text := range []string{"_TRAFFIC_SECRET ", "_TRAFFIC_SECRET_0 ", "CLIENT_RANDOM "} {
			for rest := all; ; {
				_, behind, ok := bytes.Cut(rest, []byte(text))
				if !ok {
					break
				}
				if label.Match(behind) {
					found++
				}
				rest = behind
			}
		}
		before = bytes.Clone(all[max(0, len(all)-40):])
	})
	if err != nil {
		t.Fatal(err)
	}
	if found > 0 {
		t.Errorf("%d lines of a key log lie in memory", found)
	}
}
