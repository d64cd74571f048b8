package keyleak

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
)

// probe is testdata/probe, running.
type probe struct {
	cmd     *exec.Cmd
	in      io.Writer
	answers *bufio.Reader
}

// worst is a way of sending, and how many steps of it are worth their time.
type worst struct {
	name       string
	tls        uint16
	suite      uint16 // that must have been used
	steps      int
	args, env  []string
	mustLeak   bool
	copies     int // that must be found at all times: one if there is no secret memory
	headAtMost int
}

var (
	noAES  = []string{"GODEBUG=cpu.aes=off"} // as on a machine without AES instructions
	worsts = []worst{
		{name: "TLS 1.3, AES", tls: tls.VersionTLS13, suite: tls.TLS_AES_128_GCM_SHA256, steps: 400, headAtMost: 40_000},
		{name: "TLS 1.3, ChaCha20", tls: tls.VersionTLS13, suite: tls.TLS_CHACHA20_POLY1305_SHA256, steps: 100, env: noAES, headAtMost: 40_000},
		{name: "TLS 1.2", tls: tls.VersionTLS12, steps: 100, args: []string{"-legacy"}, headAtMost: 40_000},
		{name: "plain http", steps: 100, headAtMost: 40_000},
		{name: "no secret memory", tls: tls.VersionTLS13, steps: 100, args: []string{"-locked"}, env: []string{wrapEnv + "=" + noSecretMemory},
			copies: 1, headAtMost: 40_000},
		// Were the test blunt, nothing would be found here either.
		{name: "naive TLS 1.3", tls: tls.VersionTLS13, steps: 60, args: []string{"-naive"}, headAtMost: 3000, mustLeak: true},
	}
)

// TestWorstCase empties crypto/tls's pool of buffers before most requests, so
// that each buffer grows anew for a record of another size, and looks at the
// idle process after every step: where crypto/tls seals the key itself, copies
// stay behind, as the last of worsts shows. Without secret memory, the one copy
// is there, and no other.
func TestWorstCase(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	for _, w := range worsts {
		t.Run(w.name, func(t *testing.T) {
			if w.copies == 0 {
				needRoot(t)
			}
			t.Parallel()
			w.test(t)
		})
	}
}

func (w worst) test(t *testing.T) {
	upstream, err := openaitest.Start(openaitest.Options{Key: string(key), TLS: w.tls != 0, TLSMin: w.tls, TLSMax: w.tls, Default: "json"})
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	p := w.start(t, upstream)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	if testing.Short() {
		w.steps = min(w.steps, 60)
	}
	dirty, most := 0, 0
	for step := range w.steps {
		did := w.step(t, p, rnd)
		r := scan(t, p.cmd.Process.Pid, key)
		if r.Full+r.Fragments > 0 {
			dirty++
			most = max(most, r.Full)
		}
		if !w.mustLeak && (r.Full != w.copies || r.Fragments > 0) {
			t.Errorf("seed %d, step %d (%s): %s%s", seed, step, did, counts(r), locate(p.cmd.Process.Pid, key))
		}
	}
	t.Logf("seed %d: %d of %d scans found something, at most %d copies", seed, dirty, w.steps, most)
	if w.mustLeak && most == 0 {
		t.Error("the probe is blunt: it finds nothing where crypto/tls seals the key itself")
	}
	w.check(t, upstream, w.steps)
}

// check makes sure that the test ran the case that the name describes.
func (w worst) check(t *testing.T, upstream *openaitest.Server, steps int) {
	t.Helper()
	all := upstream.Requests()
	if len(all) != steps || len(upstream.Faults()) > 0 {
		t.Fatalf("%d requests, want %d; faults: %v", len(all), steps, upstream.Faults())
	}
	for _, r := range all {
		if w.suite != 0 && r.TLS.CipherSuite != w.suite {
			t.Fatalf("the cipher suite is %s, want %s", tls.CipherSuiteName(r.TLS.CipherSuite), tls.CipherSuiteName(w.suite))
		}
	}
}

func (w worst) start(t *testing.T, upstream *openaitest.Server) *probe {
	t.Helper()
	argv := append([]string{proctest.Program(t, "./testdata/probe"), "-url", upstream.URL()}, w.args...)
	if w.copies > 0 {
		argv = append([]string{"/proc/self/exe"}, argv...) // the wrapper that w.env names
	}
	p := &probe{cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Env = append([]string{"SSL_CERT_FILE=" + certFile(t, upstream.CAPEM())}, w.env...)
	p.cmd.Stdin = bytes.NewReader(append(bytes.Clone(key), '\n'))
	p.cmd.Stderr = os.Stderr
	commands, in := pipe(t)
	out, answers := pipe(t)
	p.cmd.ExtraFiles = []*os.File{commands, answers}
	p.in, p.answers = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	commands.Close()
	answers.Close()
	t.Cleanup(func() {
		in.Close()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("the probe: %v", err)
		}
	})
	return p
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// step does one request, often with pools or connections emptied before it, and
// returns what it did.
func (w worst) step(t *testing.T, p *probe, rnd *rand.Rand) string {
	t.Helper()
	var did []string
	if rnd.IntN(5) == 0 {
		did = append(did, "close")
	}
	if rnd.IntN(100) < 60 {
		did = append(did, "gc")
	}
	// In two steps of three the record with the key is small: the size classes
	// lie closest there, so that most sizes would leave something behind.
	path, head, body := rnd.IntN(40), rnd.IntN(150), rnd.IntN(300)
	if rnd.IntN(3) == 0 {
		path = []int{0, 700, 3000}[rnd.IntN(3)]
		head = rnd.IntN(1 + rnd.IntN(1+rnd.IntN(w.headAtMost)))
		body = rnd.IntN(1 + rnd.IntN(1+rnd.IntN(200_000)))
	}
	did = append(did, fmt.Sprintf("req %d %d %d", path, head, body))
	for _, command := range did {
		p.send(t, command)
	}
	return strings.Join(did, ", ")
}

func (p *probe) send(t *testing.T, command string) {
	t.Helper()
	fmt.Fprintln(p.in, command)
	line, err := p.answers.ReadString('\n')
	if line != "ok\n" {
		t.Fatalf("the probe answers %q (%v) to %q", line, err, command)
	}
}
