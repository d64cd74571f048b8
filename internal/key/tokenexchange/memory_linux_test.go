package tokenexchange

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/memscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/proctest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

const renewals = 200

func TestMain(m *testing.M) { proctest.Main(m, map[string]proctest.Job{"renew": child}) }

// child starts with the source token on descriptor 3, and renews under load while its parent scans its memory. It
// continues at each line of standard input.
func child([]string) error {
	if _, err := sandbox.Protect(); err != nil {
		return err
	}
	source, err := secret.Read(3, secret.Config{Require: true, Token: true, NoSlots: true})
	if err != nil {
		return err
	}
	key, err := secret.New(secret.Config{Require: true, Token: true, Spare: true})
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("CA"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	url := os.Getenv("ISSUER")
	cfg := Config{
		Audience: "an audience/1", IdentityProviderID: `idp "1"`, ServiceAccountID: "sa_1",
		RequestURL: url + "/identity?api-version=2.0", AllowHosts: []string{"127.0.0.1"}, Source: source,
		TokenURL: url + "/oauth/token", Key: key, Roots: roots, Require: true, Report: func(string) {},
	}
	if cfg.TokenFile = os.Getenv("TOKEN_FILE"); cfg.TokenFile != "" {
		cfg.Source = nil
	}
	x, err := New(cfg)
	if err != nil {
		return err
	}
	if err := x.Start(context.Background()); err != nil {
		return err
	}
	if os.Getenv("LEAK") != "" {
		leak(source, key)
	}
	client, err := newClient(key, roots)
	if err != nil {
		return err
	}
	defer client.Close()
	// From here on under the same restrictions as the daemon.
	ports, directories := x.Needs()
	if _, err := sandbox.Enforce(sandbox.Policy{Ports: append(ports, client.Port()), Read: directories}); err != nil {
		return err
	}
	commands := bufio.NewReader(os.Stdin)
	say := func(text string) {
		fmt.Println(text)
		if _, err := commands.ReadString('\n'); err != nil {
			os.Exit(0) // the parent has finished its scans
		}
	}
	say("started")
	if cfg.TokenFile != "" {
		_, err = x.once(context.Background())
		say(fmt.Sprintf("rotated, %v", err))
	}
	sent, err := renewUnderLoad(x, client)
	say(fmt.Sprintf("renewed, requests %t, %v", sent > 0, err))
	return nil
}

var leaked []string

// leak keeps copies of the keys in ordinary memory, which the scan must find.
func leak(keys ...*secret.Key) {
	for _, k := range keys {
		leaked = append(leaked, lineOf(k))
	}
}

func newClient(key *secret.Key, roots *x509.CertPool) (*upstream.Client, error) {
	target, err := upstream.ParseTarget(os.Getenv("UPSTREAM"), false)
	if err != nil {
		return nil, err
	}
	return upstream.New(upstream.Config{Target: target, Key: key, Roots: roots})
}

// renewUnderLoad renews while four users send requests with the key; each request must contain a whole key.
func renewUnderLoad(x *Exchanger, client *upstream.Client) (sent int64, err error) {
	ctx, stop := context.WithCancel(context.Background())
	var users sync.WaitGroup
	failures := make(chan error, 4)
	for range 4 {
		users.Go(func() {
			for ctx.Err() == nil {
				if err := request(client); err != nil {
					failures <- err
					return
				}
				atomic.AddInt64(&sent, 1)
			}
		})
	}
	for range renewals {
		if _, err = x.once(ctx); err != nil {
			break
		}
	}
	stop()
	users.Wait()
	close(failures)
	for f := range failures {
		err = errors.Join(err, f)
	}
	return sent, err
}

func request(client *upstream.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := client.Do(ctx, &upstream.Request{Fields: []http1.Field{{Name: []byte("x-fake"), Value: []byte("json")}}, Start: []byte("{}"), Length: 2})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		if _, err := r.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// subject is a child whose memory is scanned.
type subject struct {
	issuer   *issuer
	upstream *openaitest.Server
	*proctest.Child
}

func startSubject(t *testing.T, env ...string) *subject {
	t.Helper()
	return startSubjectWith(t, "", env...)
}

// startSubjectWith starts a child that has an identity already.
func startSubjectWith(t *testing.T, identity string, env ...string) *subject {
	t.Helper()
	s := &subject{issuer: startIssuer(t), upstream: must(openaitest.Start(openaitest.Options{TLS: true}))}
	t.Cleanup(s.upstream.Close)
	s.issuer.piecewise = true
	if identity != "" {
		s.issuer.use(identity)
	}
	ca := t.TempDir() + "/ca"
	if err := os.WriteFile(ca, append(s.issuer.ca, s.upstream.CAPEM()...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := proctest.Command("renew")
	cmd.Env = append(cmd.Env, append(env, "CA="+ca, "ISSUER="+s.issuer.URL, "UPSTREAM="+s.upstream.URL())...)
	cmd.ExtraFiles = []*os.File{proctest.Input(t, fmt.Sprintln(s.issuer.source))}
	s.Child = must(proctest.Start(t, cmd))
	return s
}

// findings are the totals of many scans.
type findings struct{ scans, full, fragments, longest int }

// scan searches for all tokens, old and new.
func (s *subject) scan(t *testing.T, sum *findings, old bool) {
	t.Helper()
	s.issuer.mu.Lock()
	tokens := []string{s.issuer.source}
	for _, list := range [][]string{s.issuer.identities, s.issuer.access} {
		tokens = append(tokens, list[len(list)-1])
		if old {
			tokens = append(tokens, list[0], list[len(list)/2], list[max(0, len(list)-2)])
		}
	}
	s.issuer.mu.Unlock()
	for _, token := range tokens {
		r, err := memscan.Process(s.Cmd.Process.Pid, []byte(token))
		if err != nil {
			t.Fatal(err)
		}
		if r.Bytes == 0 || r.Unreadable == 0 {
			t.Fatalf("%+v: the child has no secret memory", r)
		}
		sum.scans++
		sum.full += r.Full
		sum.fragments += r.Fragments
		sum.longest = max(sum.longest, r.Longest)
	}
}

// TestTokensInMemory: none of the three tokens is in readable memory after the start, during 200 renewals under load,
// and after them.
func TestTokensInMemory(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	s := startSubject(t)
	if got := s.Line(); got != "started" {
		t.Fatal(got)
	}
	var started, during, after findings
	s.scan(t, &started, !raceDetector)
	fmt.Fprintln(s.In)
	done := make(chan string)
	go func() { done <- s.Line() }()
	scanNow := make(chan struct{})
	if !raceDetector { // the race detector's shadow memory makes a scan take seconds
		close(scanNow)
	}
	got := ""
	for got == "" {
		select {
		case got = <-done:
		case <-scanNow:
			s.scan(t, &during, false)
		}
	}
	if got != "renewed, requests true, <nil>" {
		t.Fatal(got)
	}
	s.scan(t, &after, !raceDetector)
	s.issuer.check(t)
	t.Logf("started %+v, during %+v, after %+v; %d requests, %d exchanges", started, during, after, s.upstream.Count(), len(s.issuer.access))
	for when, f := range map[string]findings{"after the start": started, "during the renewals": during, "after the renewals": after} {
		if f.full != 0 || f.fragments != 0 {
			t.Errorf("%s: %+v", when, f)
		}
	}
	if len(s.issuer.access) != renewals+1 || during.scans == 0 && !raceDetector {
		t.Errorf("%d exchanges, %d scans", len(s.issuer.access), during.scans)
	}
	if s.issuer.together != 1 {
		t.Errorf("%d exchanges at one time", s.issuer.together)
	}
	s.checkKeys(t)
}

// checkKeys checks that each request contained one of the access tokens, whole.
func (s *subject) checkKeys(t *testing.T) {
	t.Helper()
	known := map[string]bool{}
	for _, token := range s.issuer.access {
		known["Bearer "+token] = true
	}
	used := map[string]bool{}
	for _, r := range s.upstream.Requests() {
		value := r.Get("authorization")
		if !known[value] {
			t.Fatalf("a request with the credential %.60q", value)
		}
		used[value] = true
	}
	if len(used) < 10 {
		t.Errorf("requests with %d tokens only", len(used))
	}
}

// TestTokenFileInSandbox: a token that Kubernetes replaces, by a link to another directory, is read in the sandbox, and
// is not in readable memory.
func TestTokenFileInSandbox(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	dir := t.TempDir()
	if err := os.Symlink("..data/token", dir+"/token"); err != nil {
		t.Fatal(err)
	}
	old, fresh := jwt(1500), jwt(1500)
	publish(t, dir, "..1", old)
	s := startSubjectWith(t, old, "TOKEN_FILE="+dir+"/token")
	if got := s.Line(); got != "started" {
		t.Fatal(got)
	}
	publish(t, dir, "..2", fresh)
	os.RemoveAll(dir + "/..1")
	s.issuer.use(fresh)
	fmt.Fprintln(s.In)
	if got := s.Line(); got != "rotated, <nil>" {
		t.Fatal(got)
	}
	var f findings
	s.scan(t, &f, !raceDetector)
	if f.full != 0 || f.fragments != 0 {
		t.Errorf("%+v", f)
	}
	s.issuer.check(t)
}

// publish replaces the token as Kubernetes does.
func publish(t *testing.T, dir, version, token string) {
	t.Helper()
	err := errors.Join(
		os.Mkdir(dir+"/"+version, 0o755),
		os.WriteFile(dir+"/"+version+"/token", []byte(token), 0o644),
		os.Symlink(version, dir+"/..tmp"),
		os.Rename(dir+"/..tmp", dir+"/..data"))
	if err != nil {
		t.Fatal(err)
	}
}

// TestScanFinds: the scan finds tokens in ordinary memory.
func TestScanFinds(t *testing.T) {
	proctest.NeedRoot(t, "read another process's memory")
	s := startSubject(t, "LEAK=1")
	if got := s.Line(); got != "started" {
		t.Fatal(got)
	}
	var f findings
	s.scan(t, &f, false)
	if f.full < 2 {
		t.Errorf("two tokens that were leaked are not found: %+v", f)
	}
}

// TestNeedsOfALink: the directories of the token's file and of what it links to must stay readable, each named once.
func TestNeedsOfALink(t *testing.T) {
	dir := t.TempDir()
	for target, want := range map[string]string{dir + "/x": dir, "/etc/passwd": dir + " /etc"} {
		cfg := startIssuer(t).config(t)
		cfg.Source, cfg.TokenFile = nil, fmt.Sprintf("%s/token-%d", dir, len(target))
		os.WriteFile(dir+"/x", nil, 0o600)
		if err := os.Symlink(target, cfg.TokenFile); err != nil {
			t.Fatal(err)
		}
		if _, got := must(New(cfg)).Needs(); fmt.Sprint(got) != "["+want+"]" {
			t.Errorf("a link to %s: %s, want %s", target, got, want)
		}
	}
}
