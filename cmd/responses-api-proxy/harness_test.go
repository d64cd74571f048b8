package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/metrics"
)

const (
	// canary is the key of all scripts, there as $KEY.
	canary = "sk-test-CANARY_0123456789-abcdefghijklmnopqrstuvwxyz"

	// patience is for what must happen at all; no test measures it.
	patience = time.Minute

	// The race detector makes every program wait for a second at its end.
	noRaceDelay = "atexit_sleep_ms=0"
)

// commands are the commands of scripts besides testscript's own. Arguments that
// begin with '+' are for the harness, see parseLaunch; the proxy gets the others.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"upstream": positive((*world).cmdUpstream),
	"held":     positive((*world).cmdHeld),
	"scenario": positive((*world).cmdScenario),
	"release":  positive((*world).cmdRelease),
	"saw":      positive((*world).cmdSaw),
	"busyport": positive((*world).cmdBusyPort),
	"freeport": positive((*world).cmdFreePort),
	"refuses":  positive((*world).cmdRefuses),
	"proxy":    positive((*world).cmdProxy),
	"signal":   positive((*world).cmdSignal),
	"exits":    positive((*world).cmdExits),
	"end":      positive((*world).cmdEnd),
	"log":      positive((*world).cmdLog),
	"http":     positive((*world).cmdHTTP),
	"refused":  positive((*world).cmdRefused),
	"raw":      positive((*world).cmdRaw),
	"bighead":  positive((*world).cmdBigHead),
	"accepts":  accepts,
	"crowd":    positive((*world).cmdCrowd),
	"leave":    positive((*world).cmdLeave),
	"stream":   positive((*world).cmdStream),
	"races":    positive((*world).cmdRaces),
	"reloads":  positive((*world).cmdReloads),
	"flood":    positive((*world).cmdFlood),
	"recovers": positive((*world).cmdRecovers),
	"await":    positive((*world).cmdAwait),
	"shows":    positive((*world).cmdShows),
}

// world is the state of one script.
type world struct {
	ts       *testscript.TestScript
	upstream *openaitest.Server
	release  chan struct{}
	p        *process
	stream   *bufio.Reader
	began    time.Time // of the last signal
	crowd    []net.Conn
	busy     net.Listener
}

type worldKey struct{}

func setup(env *testscript.Env) error {
	w := &world{}
	env.Values[worldKey{}] = w
	env.Setenv("KEY", canary)
	env.Setenv("GORACE", noRaceDelay)
	env.Setenv("BIN", filepath.SplitList(env.Getenv("PATH"))[0])
	if err := build(env.Getenv("BIN")); err != nil {
		return err
	}
	// Another user must be able to run the test binary.
	for _, dir := range []string{env.WorkDir, filepath.Dir(env.WorkDir), filepath.Dir(env.Getenv("BIN"))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	env.Defer(w.close)
	return nil
}

// built are the directories that have the program.
var built = struct {
	sync.Mutex
	folders map[string]error
}{folders: map[string]error{}}

// build puts the programs, as they are released, into dir, once: for the scripts in
// the place of this test binary, which is linked with cgo where there is a C
// compiler, and so cannot be sandboxed.
func build(dir string) error {
	built.Lock()
	defer built.Unlock()
	err, done := built.folders[dir]
	if !done {
		err = buildIn(dir)
		built.folders[dir] = err
	}
	return err
}

func buildIn(dir string) error {
	for program, pkg := range map[string]string{"/responses-api-proxy.new": ".", "/responses-api-proxy-verify": "../responses-api-proxy-verify"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", dir+program, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err := os.Rename(dir+"/responses-api-proxy.new", dir+"/responses-api-proxy"); err != nil {
		return err
	}
	if err := os.Chmod(dir+"/responses-api-proxy", 0o711); err != nil { // as it is installed
		return err
	}
	os.Remove(dir + "/codex-responses-api-proxy")
	return os.Symlink("responses-api-proxy", dir+"/codex-responses-api-proxy")
}

// close leaves nothing running.
func (w *world) close() {
	if w.p != nil {
		w.p.kill()
	}
	if w.upstream != nil {
		w.upstream.Close()
	}
	w.leave()
	if w.busy != nil {
		w.busy.Close()
	}
}

// a command can be negated only where accepting '!' makes sense.
func positive(do func(w *world, args []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		w := ts.Value(worldKey{}).(*world)
		w.ts = ts
		do(w, args)
	}
}

// until polls.
func (w *world) until(what string, met func() bool) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !met(); <-tick.C {
		if time.Now().After(deadline) {
			w.ts.Fatalf("gave up waiting until %s%s", what, w.logged())
		}
	}
}

// upstream [tls] [path=PATH] [default=SCENARIO] starts a fake of OpenAI
// that accepts $KEY only; $UPSTREAM is its URL, $HOST its address,
// $CA its authority's file.
func (w *world) cmdUpstream(args []string) {
	opts := openaitest.Options{Key: canary}
	for _, a := range args {
		switch k, v, _ := strings.Cut(a, "="); k {
		case "tls":
			opts.TLS = true
		case "path":
			opts.Path = v
		case "default":
			opts.Default = v
		default:
			w.ts.Fatalf("upstream: unknown word %q", a)
		}
	}
	if w.upstream != nil {
		w.upstream.Close()
	}
	s, err := openaitest.Start(opts)
	w.ts.Check(err)
	w.upstream = s
	w.ts.Setenv("UPSTREAM", s.URL())
	w.ts.Setenv("HOST", s.Addr())
	if opts.TLS {
		ca := w.ts.MkAbs("ca.pem")
		w.ts.Check(os.WriteFile(ca, s.CAPEM(), 0o644))
		w.ts.Setenv("CA", ca)
	}
}

// scenario SCENARIO... sets how the upstream responds to its next requests.
func (w *world) cmdScenario(args []string) { w.upstream.Script(args...) }

// saw N [TARGET] checks that the upstream got exactly N requests, each of them
// proper, with exactly one credential, and for TARGET.
func (w *world) cmdSaw(args []string) {
	want, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	requests := w.upstream.Requests()
	if len(requests) != want {
		w.ts.Fatalf("the upstream saw %d requests, want %d", len(requests), want)
	}
	for _, r := range requests {
		if got := r.Credentials(); len(got) != 1 || got[0] != "Bearer "+canary {
			w.ts.Fatalf("the upstream saw the credentials %q", got)
		}
		if r.Method != "POST" || len(args) > 1 && r.Target != args[1] {
			w.ts.Fatalf("the upstream saw %s %s", r.Method, r.Target)
		}
	}
	if faults := w.upstream.Faults(); len(faults) > 0 {
		w.ts.Fatalf("the upstream saw faults: %q", faults)
	}
}

const (
	firstEvent = "event: response.created\ndata: {}\n\n"
	lastEvent  = "event: response.completed\ndata: {}\n\n"
)

// held starts an upstream whose streams stop behind their first event until
// release; $UPSTREAM is its URL.
func (w *world) cmdHeld([]string) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(rw, firstEvent)
		rw.(http.Flusher).Flush()
		select {
		case <-release:
			io.WriteString(rw, lastEvent)
		case <-r.Context().Done():
		}
	}))
	w.release = release
	w.ts.Defer(func() {
		s.CloseClientConnections()
		s.Close()
	})
	w.ts.Setenv("UPSTREAM", s.URL+"/v1/responses")
}

func (w *world) cmdRelease([]string) { close(w.release) }

// busyport sets $BUSY to a port that has a listener.
func (w *world) cmdBusyPort([]string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	w.ts.Check(err)
	w.busy = l
	w.ts.Setenv("BUSY", portOf(l))
}

// freeport sets $FREE to a port that has no listener.
func (w *world) cmdFreePort([]string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	w.ts.Check(err)
	w.ts.Check(l.Close())
	w.ts.Setenv("FREE", portOf(l))
}

func portOf(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

// launch describes how to start the proxy.
type launch struct {
	as      string   // the program; a path or a name on PATH
	stdin   string   // see feed
	via     []string // shell words that come before the program
	closes  string   // shell redirections
	stderr  string   // "", "broken" or "full"
	mapped  bool     // as root of a user namespace
	nobody  bool     // as an ordinary user, also when root runs the tests
	json    bool     // the start lines are JSON
	ready   string   // "stderr" where there is no server-info to wait for
	log     string   // the file that gets standard error
	args    []string
	limited []string // ulimit's arguments
}

// parseLaunch takes the words for the harness off a command line:
//
//	+as=PROGRAM     by another name
//	+stdin=FORM     see feed; the default is $KEY and a line feed
//	+namespace      as root of a user namespace, which maps the numbers up to 65535
//	+nobody         as an ordinary user
//	+ulimit=-n64    with a limit
//	+via=PROGRAM    started by PROGRAM, which executes it in its place
//	+closed=N       without file descriptor N
//	+redirect=TEXT  a shell's redirection, as 3<>FIFO
//	+stderr=broken  a pipe whose read end is closed
//	+stderr=full    a pipe that is full, and never read
//	+log=FILE       where standard error goes; the default is log.txt
//	+ready=stderr   no --server-info is added
//	+json           with --log-format json, so that the start lines are others
func parseLaunch(ts *testscript.TestScript, words []string) *launch {
	l := &launch{as: "responses-api-proxy", stdin: "text:" + canary + `\n`, log: "log.txt"}
	for _, word := range words {
		k, v, _ := strings.Cut(word, "=")
		switch k {
		case "+as":
			l.as = v
		case "+stdin":
			l.stdin = v
		case "+namespace":
			l.mapped = true
		case "+nobody":
			l.nobody = true
		case "+ulimit":
			l.limited = append(l.limited, v)
		case "+via":
			l.via = append(l.via, v)
		case "+closed":
			l.closes += " " + v + ">&-"
		case "+redirect":
			l.closes += " " + v
		case "+stderr":
			l.stderr = v
		case "+log":
			l.log = v
		case "+ready":
			l.ready = v
		case "+json":
			l.json = true
		default:
			if strings.HasPrefix(word, "+") {
				ts.Fatalf("unknown word %q", word)
			}
			l.args = append(l.args, word)
		}
	}
	return l
}

// command returns the command to be run, in the script's environment. If there
// are redirections or limits, a shell sets them up and then executes the program.
func (l *launch) command(ts *testscript.TestScript) *exec.Cmd {
	words := append(append(slices.Clone(l.via), l.as), l.args...)
	if l.closes != "" || len(l.limited) > 0 {
		script := ""
		for _, limit := range l.limited {
			script += "ulimit " + limit[:2] + " " + limit[2:] + " && "
		}
		words = append([]string{"sh", "-c", script + `exec "$0" "$@"` + l.closes}, words...)
	}
	if !strings.Contains(words[0], "/") {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if path := filepath.Join(dir, words[0]); executable(path) {
				words[0] = path
				break
			}
		}
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environment(ts)
	if l.mapped {
		inNamespace(cmd)
	}
	if l.nobody {
		cmd.Env = append(cmd.Env, "GOCOVERDIR="+writableDirectory(ts))
		asNobody(cmd)
	}
	return cmd
}

// writableDirectory makes a directory that every user may write to, for the coverage data
// of processes whose user cannot write to the usual directory. They would print an
// error to standard error otherwise.
func writableDirectory(ts *testscript.TestScript) string {
	dir := ts.MkAbs(".cover")
	ts.Check(os.MkdirAll(dir, 0o777))
	ts.Check(os.Chmod(dir, 0o777))
	return dir
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// environment is the script's, as far as a proxy looks at it.
func environment(ts *testscript.TestScript) []string {
	env := []string{"PATH=" + ts.Getenv("PATH"), "GORACE=" + noRaceDelay, "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "CREDENTIALS_DIRECTORY", "OPENAI_API_KEY", "PROXY_API_KEY", "GOTRACEBACK"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// feed connects standard input, which is one of
//
//	text:TEXT   TEXT, with Go's escapes, and the end of the input
//	long:N[T]   N letters, then T
//	open:TEXT   TEXT, and no end: $KEY must be enough
//	file:NAME   a file
//	null        /dev/null
//	closed      no file descriptor 0 at all
//
// It returns the end to write to, if that stays open.
func (l *launch) feed(ts *testscript.TestScript, cmd *exec.Cmd) *os.File {
	form, text, _ := strings.Cut(l.stdin, ":")
	switch form {
	case "text", "open":
		unquoted, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
		ts.Check(err)
		w := pipeInto(ts, cmd, unquoted)
		if form == "open" {
			return w
		}
		w.Close()
	case "long":
		digits := strings.TrimRight(text, `\rn`)
		n, err := strconv.Atoi(digits)
		ts.Check(err)
		tail, err := strconv.Unquote(`"` + text[len(digits):] + `"`)
		ts.Check(err)
		pipeInto(ts, cmd, strings.Repeat("k", n)+tail).Close()
	case "file":
		f, err := os.Open(ts.MkAbs(text))
		ts.Check(err)
		cmd.Stdin = f
	case "null":
	default:
		ts.Fatalf("unknown form of standard input %q", l.stdin)
	}
	return nil
}

// pipeInto makes a pipe with text in it the command's standard input. Pipes
// hold far more than the longest text.
func pipeInto(ts *testscript.TestScript, cmd *exec.Cmd, text string) *os.File {
	r, w, err := os.Pipe()
	ts.Check(err)
	cmd.Stdin = r
	_, err = io.WriteString(w, text)
	ts.Check(err)
	return w
}

// refuses CODE REGEXP WORDS... checks that the proxy does not start: it exits
// with CODE, prints the reason to standard error in lines of its own and nothing
// to standard output, and neither writes info.json nor shows a key.
func (w *world) cmdRefuses(args []string) {
	ts := w.ts
	l := parseLaunch(ts, args[2:])
	cmd := l.command(ts)
	l.feed(ts, cmd)
	var out bytes.Buffer
	errs := tripwire{trip: func() { cmd.Process.Kill() }}
	cmd.Stdout, cmd.Stderr = &out, &errs
	ts.Check(cmd.Start())
	deadline := time.AfterFunc(patience, errs.trip)
	closeFile(cmd.Stdin)
	cmd.Wait()
	deadline.Stop()
	text := errs.text.String()
	ts.Logf("[stderr of %q]\n%s", l.args, text)
	if code := strconv.Itoa(cmd.ProcessState.ExitCode()); code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
	if !regexp.MustCompile(args[1]).MatchString(text) {
		ts.Fatalf("the message does not match %s", args[1])
	}
	w.checkRefusal(l, args[0], out.String(), text)
}

// tripwire ends a proxy that starts although it should not.
type tripwire struct {
	text bytes.Buffer
	trip func()
}

// Write implements io.Writer.
func (t *tripwire) Write(p []byte) (int, error) {
	n, err := t.text.Write(p)
	if bytes.Contains(t.text.Bytes(), []byte(" listening on ")) {
		t.trip()
	}
	return n, err
}

// info.json is the file that scripts of refused starts name.
func (w *world) checkRefusal(l *launch, code, out, text string) {
	if out != "" {
		w.ts.Fatalf("standard output: %q", out)
	}
	if strings.Contains(text, canary) || strings.Contains(text, canary[8:]) {
		w.ts.Fatalf("the message shows the key")
	}
	if strings.Contains(text, "listening") {
		w.ts.Fatalf("it says that it listens")
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "responses-api-proxy: ") || strings.HasSuffix(line, ".\n") {
			w.ts.Fatalf("not in the style of messages: %q", line)
		}
	}
	if hint := strings.HasSuffix(text, "responses-api-proxy: run it with --help for its flags\n"); hint != (code == "2") {
		w.ts.Fatalf("exit code %s, and the hint at --help is there: %t", code, hint)
	}
	if _, err := os.Lstat(w.ts.MkAbs("info.json")); err == nil {
		w.ts.Fatalf("info.json was written")
	}
}

func closeFile(r io.Reader) {
	if f, ok := r.(*os.File); ok {
		f.Close()
	}
}

// process is a proxy that runs.
type process struct {
	os     *os.Process
	port   string
	log    string // file of standard error; "" if that is something else
	out    string // file of standard output
	stdin  *os.File
	reads  *os.File // the end of a full pipe, kept so that it is not broken
	known  int      // lines of log that the script expects
	args   []string // of the command line
	window string   // see world.window
	exited chan struct{}
	state  *os.ProcessState
}

func (p *process) kill() {
	p.os.Kill()
	<-p.exited
	for _, f := range []*os.File{p.stdin, p.reads} {
		if f != nil {
			f.Close()
		}
	}
}

// proxy WORDS... starts the proxy and waits until it listens. It sets $PORT and
// $PID from the server-info, which is in info.json unless the words name
// another, and checks that standard error has exactly the one line.
func (w *world) cmdProxy(args []string) {
	l := parseLaunch(w.ts, args)
	info := w.infoFile(l)
	before, _ := os.ReadFile(info)
	w.start(l)
	if l.ready == "stderr" {
		w.until("the listening line is there", func() bool { return strings.Contains(w.p.text(), "\n") })
		w.p.port = regexp.MustCompile(`:(\d+)\n`).FindStringSubmatch(w.p.text())[1]
	} else {
		w.awaitInfo(info, before)
		w.checkPID()
	}
	w.ts.Setenv("PORT", w.p.port)
	w.ts.Setenv("PID", strconv.Itoa(w.p.os.Pid))
	if !l.json {
		w.checkFirstLine()
	}
}

// infoFile returns the server-info's name, and adds --server-info to the
// arguments where the script does not.
func (w *world) infoFile(l *launch) string {
	for i, a := range l.args {
		if name, ok := strings.CutPrefix(a, "--server-info="); ok {
			return w.ts.MkAbs(name)
		}
		if a == "--server-info" {
			return w.ts.MkAbs(l.args[i+1])
		}
	}
	name := w.ts.MkAbs("info.json")
	if l.ready == "" {
		os.Remove(name)
		if l.nobody {
			w.ts.Check(os.WriteFile(name, nil, 0o666))
			w.ts.Check(os.Chmod(name, 0o666)) // as codex-action prepares it
		}
		l.args = append(l.args, "--server-info", name)
	}
	return name
}

// start starts the proxy, and ends the one before.
func (w *world) start(l *launch) {
	if w.p != nil {
		w.p.kill()
	}
	p := &process{exited: make(chan struct{}), out: w.ts.MkAbs("out.txt"), args: l.args}
	cmd := l.command(w.ts)
	p.stdin = l.feed(w.ts, cmd)
	out, err := os.Create(p.out)
	w.ts.Check(err)
	cmd.Stdout, cmd.Stderr = out, w.errorSink(l, p)
	w.ts.Check(cmd.Start())
	for _, f := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if f, ok := f.(*os.File); ok && f != nil {
			f.Close()
		}
	}
	p.os, p.window, w.p = cmd.Process, w.window(l), p
	go func() {
		cmd.Wait()
		p.state = cmd.ProcessState
		close(p.exited)
	}()
}

func (w *world) errorSink(l *launch, p *process) *os.File {
	if l.stderr == "" {
		p.log = w.ts.MkAbs(l.log)
		f, err := os.Create(p.log)
		w.ts.Check(err)
		return f
	}
	r, f, err := os.Pipe()
	w.ts.Check(err)
	switch l.stderr {
	case "broken":
		r.Close()
	case "full":
		p.reads = r
		w.ts.Check(stuff(f))
	default:
		w.ts.Fatalf("unknown kind of standard error %q", l.stderr)
	}
	return f
}

// stuff fills a pipe.
func stuff(f *os.File) error {
	f.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	_, err := f.Write(make([]byte, 4<<20))
	if err == nil {
		return fmt.Errorf("the pipe takes everything")
	}
	return nil
}

var exactInfo = regexp.MustCompile(`^\{"port":([1-9][0-9]*),"pid":([1-9][0-9]*)\}\n$`)

// awaitInfo waits for the server-info, of which a reader must see either
// nothing, or all, or what was there before.
func (w *world) awaitInfo(file string, before []byte) {
	w.until("the server-info is there", func() bool {
		w.mustRun()
		b, err := os.ReadFile(file)
		if err != nil || len(b) == 0 || bytes.Equal(b, before) {
			return false
		}
		match := exactInfo.FindSubmatch(b)
		if match == nil {
			w.ts.Fatalf("the server-info is %q", b)
		}
		w.p.port = string(match[1])
		w.ts.Setenv("INFOPID", string(match[2]))
		return true
	})
}

func (w *world) checkPID() {
	if pid := strconv.Itoa(w.p.os.Pid); w.ts.Getenv("INFOPID") != pid {
		w.ts.Fatalf("the server-info's pid is %s, the process is %s", w.ts.Getenv("INFOPID"), pid)
	}
}

// mustRun fails when the proxy has ended.
func (w *world) mustRun() {
	select {
	case <-w.p.exited:
		w.ts.Fatalf("the proxy has ended: %v%s", w.p.state, w.logged())
	default:
	}
}

// checkFirstLine expects the start's lines, and counts them as known.
func (w *world) checkFirstLine() {
	if w.p.log == "" {
		return
	}
	w.expectLine(`^responses-api-proxy listening on 127\.0\.0\.1:` + w.p.port + `$`) // the original's message
	if slices.ContainsFunc(w.p.args, func(a string) bool { return strings.HasPrefix(a, "unix:") && !strings.Contains(a, "metrics") }) {
		w.expectLine(`^responses-api-proxy listening on /.*$`)
	}
	callers, metrics := "all", ""
	if slices.ContainsFunc(w.p.args, namesCallers) {
		callers = `("[^"]+"|[^ "]+)`
	}
	if slices.Contains(w.p.args, "--metrics") {
		metrics = ` metrics=\S+`
	}
	w.expectLine(logTime + `INFO started version=\S+ base_url=http://127\.0\.0\.1:` + w.p.port + `(/v1)? upstream=https?://\S+( forward_proxy=\S+)? callers=` + callers + metrics + `$`)
	w.expectLine(logTime + `INFO protections secret-memory=\w+ dumpable=no core=no start-window=(open|closed) user=\w+ caps=none no-new-privs=on landlock=abi[0-9]+ seccomp=on$`)
	if w.p.window != "closed" {
		w.expectLine(logTime + `WARN a protection is incomplete protection=start-window state=open reason="the program's file could be read when it was started, .*mode 0711.*"$`)
	}
	if strings.Contains(w.lastLine(`INFO protections `), " user=root ") {
		w.expectLine(logTime + `WARN a protection is incomplete protection=user state=root reason="the process is still root" hint="name another user with --user"$`)
	}
	if callers == "all" {
		w.expectLine(logTime + `WARN every user of this host may call hint="--allow-user limits that"$`)
	}
}

// window returns what the start line reports of the time before the process was
// protected.
func (w *world) window(l *launch) string {
	program := filepath.Join(w.ts.Getenv("BIN"), l.as)
	if strings.Contains(l.as, "/") {
		program = w.ts.MkAbs(l.as)
	}
	st, err := os.Stat(program)
	if os.Geteuid() == 0 && (!l.nobody || err == nil && st.Mode().Perm()&0o004 == 0) {
		return "closed"
	}
	return "open"
}

func namesCallers(arg string) bool {
	return strings.HasPrefix(arg, "--allow-user")
}

// logTime matches the beginning of the log's lines.
const logTime = `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z `

// lastLine returns the last line of the log that has text in it.
func (w *world) lastLine(text string) (last string) {
	for line := range strings.Lines(w.p.text()) {
		if strings.Contains(line, text) {
			last = line
		}
	}
	return last
}

// expectLine waits for the next line of the log.
func (w *world) expectLine(pattern string) {
	w.p.known++
	w.until(fmt.Sprintf("there is a line %d in the log", w.p.known), func() bool { return strings.Count(w.p.text(), "\n") >= w.p.known })
	line := strings.Split(w.p.text(), "\n")[w.p.known-1]
	if !regexp.MustCompile(pattern).MatchString(line) {
		w.ts.Fatalf("line %d of the log is %q, want %s", w.p.known, line, pattern)
	}
}

// text is what standard error has got.
func (p *process) text() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

func (w *world) logged() string {
	if w.p == nil || w.p.log == "" {
		return ""
	}
	return "\n[log]\n" + w.p.text()
}

// log REGEXP... expects one more line for each.
func (w *world) cmdLog(args []string) {
	for _, pattern := range args {
		w.expectLine(pattern)
	}
}

var signals = map[string]syscall.Signal{
	"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "PIPE": syscall.SIGPIPE,
	"SEGV": syscall.SIGSEGV, "ABRT": syscall.SIGABRT,
}

// await FILE REGEXP waits until a file has a match.
func (w *world) cmdAwait(args []string) {
	pattern, text := regexp.MustCompile(args[1]), []byte(nil)
	defer func() {
		if !pattern.Match(text) {
			w.ts.Logf("%s has %q", args[0], text)
		}
	}()
	w.until(args[0]+" matches "+args[1], func() bool {
		var err error
		text, err = os.ReadFile(w.ts.MkAbs(args[0]))
		return err == nil && pattern.Match(text)
	})
}

// shows ADDR PATH PATTERN waits until the page of the listener of --metrics matches.
func (w *world) cmdShows(args []string) {
	pattern := regexp.MustCompile(args[2])
	var last string
	defer func() {
		if !pattern.MatchString(last) {
			w.ts.Logf("%s%s shows %s", args[0], args[1], last)
		}
	}()
	w.until(args[0]+args[1]+" shows "+args[2], func() bool {
		body, err := metrics.Fetch(args[0], args[1])
		last = string(body) + fmt.Sprint(err)
		return err == nil && pattern.Match(body)
	})
}

// signal NAME...
func (w *world) cmdSignal(args []string) {
	w.began = time.Now()
	for _, name := range args {
		s, ok := signals[name]
		if !ok {
			w.ts.Fatalf("unknown signal %q", name)
		}
		w.ts.Check(w.p.os.Signal(s))
	}
}

// exits CODE [any], or a signal's name, or anyhow, waits for the end. Standard output must
// be empty, and standard error have exactly the lines that the script expects,
// or any.
func (w *world) cmdExits(args []string) {
	select {
	case <-w.p.exited:
	case <-time.After(patience):
		w.ts.Fatalf("the proxy does not end%s", w.logged())
	}
	if got := ending(w.p.state); got != args[0] && args[0] != "anyhow" {
		w.ts.Fatalf("the proxy ended with %s, want %s%s", got, args[0], w.logged())
	}
	if b, err := os.ReadFile(w.p.out); err != nil || len(b) > 0 {
		w.ts.Fatalf("standard output: %q (%v)", b, err)
	}
	if w.p.log == "" {
		return
	}
	if args[0] == "0" && len(args) == 1 && !strings.Contains(strings.Join(w.p.args, " "), "--log-file") {
		w.checkStop()
	}
	if n := strings.Count(w.p.text(), "\n"); n != w.p.known && len(args) == 1 {
		w.ts.Fatalf("there are %d lines in the log, want %d%s", n, w.p.known, w.logged())
	}
	if strings.Contains(w.p.text(), canary[8:]) {
		w.ts.Fatalf("the log shows the key%s", w.logged())
	}
}

var stopping = regexp.MustCompile(`(?m)` + logTime + `INFO stopping, (1 request|\d+ requests) running$`)

// checkStop expects the lines of a stop, of which the script may have expected the first already.
func (w *world) checkStop() {
	lines := strings.SplitAfter(w.p.text(), "\n")
	if known := strings.Join(lines[:min(w.p.known, len(lines))], ""); !stopping.MatchString(known) {
		w.expectLine(stopping.String())
	}
	w.expectLine(logTime + `INFO stopped$`)
}

func ending(state *os.ProcessState) string {
	if status, ok := state.Sys().(interface {
		Signaled() bool
		Signal() syscall.Signal
	}); ok && status.Signaled() {
		for name, s := range signals {
			if s == status.Signal() {
				return name
			}
		}
	}
	return strconv.Itoa(state.ExitCode())
}

// end ends the proxy as systemd does, and expects exit code 0.
func (w *world) cmdEnd([]string) {
	w.mustRun()
	w.cmdSignal([]string{"TERM"})
	w.cmdExits([]string{"0"})
}

// dial connects to the proxy.
func (w *world) dial() net.Conn {
	c, err := net.Dial("tcp4", "127.0.0.1:"+w.p.port)
	if err != nil {
		w.mustRun()
	}
	w.ts.Check(err)
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// accepts [HOST:PORT] checks that the proxy, or the listener at the address, takes
// connections; negated it waits until they are refused.
func accepts(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value(worldKey{}).(*world)
	w.ts = ts
	addr := cmp.Or(append(args, "127.0.0.1:"+ts.Getenv("PORT"))...)
	connects := func() bool {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	if neg {
		w.until("nobody listens on "+addr, func() bool { return !connects() })
	} else if !connects() {
		ts.Fatalf("nobody listens on %s%s", addr, w.logged())
	}
}

const askJSON = `{"model":"gpt-5","input":"hi"}`

// request returns the bytes of METHOD TARGET [NAME:VALUE]...
func request(port string, args []string, body string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n", args[0], args[1], port)
	for _, h := range args[2:] {
		b.WriteString(h + "\r\n")
	}
	if args[0] == "POST" || args[0] == "PUT" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	} else {
		body = ""
	}
	return b.String() + "\r\n" + body
}

// exchange sends bytes on a connection of their own and reads the response to its
// end.
func (w *world) exchange(method, bytes string) (*http.Response, []byte) {
	c := w.dial()
	defer c.Close()
	_, err := io.WriteString(c, bytes)
	w.ts.Check(err)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	w.ts.Check(err)
	body, err := io.ReadAll(res.Body)
	w.ts.Check(err)
	return res, body
}

// http STATUS METHOD TARGET [NAME:VALUE]... sends a request to the proxy; the
// response's body becomes this command's standard output. POST sends a little JSON.
func (w *world) cmdHTTP(args []string) {
	res, body := w.exchange(args[1], request(w.p.port, args[1:], askJSON))
	fmt.Fprintf(w.ts.Stdout(), "%s", body)
	if got := strconv.Itoa(res.StatusCode); got != args[0] {
		w.ts.Fatalf("status %s, want %s", got, args[0])
	}
	if bytes.Contains(body, []byte(canary)) {
		w.ts.Fatalf("the answer shows the key")
	}
}

// refused STATUS CODE METHOD TARGET [NAME:VALUE]... checks that the proxy
// itself refuses: in OpenAI's format, with one line in the log, and without a
// request to the upstream.
func (w *world) cmdRefused(args []string) {
	w.refused(args[0], args[1], args[2], request(w.p.port, args[2:], askJSON))
}

// raw STATUS CODE BYTES does the same with the bytes, which have Go's escapes.
func (w *world) cmdRaw(args []string) {
	text, err := strconv.Unquote(`"` + args[2] + `"`)
	w.ts.Check(err)
	w.refused(args[0], args[1], "GET", text)
}

// bighead STATUS CODE N does the same with a header of N bytes.
func (w *world) cmdBigHead(args []string) {
	n, err := strconv.Atoi(args[2])
	w.ts.Check(err)
	w.refused(args[0], args[1], "POST", request(w.p.port, []string{"POST", "/v1/responses", "X:" + strings.Repeat("x", n)}, askJSON))
}

func (w *world) refused(status, code, method, bytes string) {
	before := 0
	if w.upstream != nil {
		before = w.upstream.Count()
	}
	res, body := w.exchange(method, bytes)
	if got := strconv.Itoa(res.StatusCode); got != status {
		w.ts.Fatalf("%.60q: status %s, want %s: %s", bytes, got, status, body)
	}
	if method != "HEAD" {
		w.checkError(res, body, code)
	}
	if w.p.log != "" {
		text := `(WARN|INFO) request refused`
		if strings.HasPrefix(code, "upstream_") {
			text = `ERROR request failed`
		}
		w.expectLine(logTime + text + ` code=` + code + `( [a-z]+=.*)?$`)
	}
	if w.upstream != nil && w.upstream.Count() != before {
		w.ts.Fatalf("%.60q reached the upstream", bytes)
	}
}

// checkError expects an error as OpenAI's clients read it.
func (w *world) checkError(res *http.Response, body []byte, code string) {
	var got struct {
		Error struct {
			Message, Type string
			Param         *string
			Code          string
		}
	}
	if err := json.Unmarshal(body, &got); err != nil {
		w.ts.Fatalf("the answer is no JSON: %v: %q", err, body)
	}
	e := got.Error
	if e.Code != code || e.Message == "" || e.Type == "" || !bytes.Contains(body, []byte(`"param":null`)) {
		w.ts.Fatalf("the answer is %s, want the code %s", body, code)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		w.ts.Fatalf("Content-Type: %q", ct)
	}
	if res.Header.Get("Access-Control-Allow-Origin") != "" {
		w.ts.Fatalf("a page may read the answer")
	}
}

// crowd N [TEXT] opens N connections that send TEXT, which is no whole head. The
// proxy may end them at once.
func (w *world) cmdCrowd(args []string) {
	n, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	for range n {
		c, err := net.Dial("tcp4", "127.0.0.1:"+w.p.port)
		if err != nil {
			w.mustRun()
			continue
		}
		w.crowd = append(w.crowd, c)
		if len(args) > 1 {
			io.WriteString(c, args[1])
		}
	}
}

// leave closes the connections of the crowd.
func (w *world) cmdLeave([]string) { w.leave() }

func (w *world) leave() {
	for _, c := range w.crowd {
		c.Close()
	}
	w.crowd = nil
}

// flood N sends N requests that are refused, with a line in the log each, on
// one connection.
func (w *world) cmdFlood(args []string) {
	n, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	c := w.dial()
	defer c.Close()
	r := bufio.NewReader(c)
	for range n {
		_, err := io.WriteString(c, request(w.p.port, []string{"GET", "/"}, ""))
		w.ts.Check(err)
		res, err := http.ReadResponse(r, nil)
		w.ts.Check(err)
		_, err = io.Copy(io.Discard, res.Body)
		w.ts.Check(err)
		if res.StatusCode != 403 {
			w.ts.Fatalf("status %d", res.StatusCode)
		}
	}
}

// recovers waits until the proxy serves again.
func (w *world) cmdRecovers([]string) {
	w.until("it serves again", func() bool {
		w.mustRun()
		c, err := net.Dial("tcp4", "127.0.0.1:"+w.p.port)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, request(w.p.port, []string{"POST", "/v1/responses"}, askJSON)); err != nil {
			return false
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		return err == nil && res.StatusCode == 200
	})
}

// stream opens a stream, which must begin, or looks at how it ends:
//
//	stream begins
//	stream whole         it has its last event, and ends as it should
//	stream cut [AFTER]   it does not, and the client gets an error, and not
//	                     before AFTER has gone by since the last signal
func (w *world) cmdStream(args []string) {
	switch args[0] {
	case "begins":
		w.beginStream()
	case "whole":
		rest, err := io.ReadAll(w.stream)
		if err != nil || string(rest) != lastEvent {
			w.ts.Fatalf("the stream ends with %q, %v", rest, err)
		}
	case "cut":
		rest, err := io.ReadAll(w.stream)
		if err == nil || len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			w.ts.Fatalf("the stream ends with %q, %v, want an error", rest, err)
		}
		least, err := time.ParseDuration(cmp.Or(append(args[1:], "0s")...))
		w.ts.Check(err)
		if took := time.Since(w.began); took < least {
			w.ts.Fatalf("the stream was cut after %v", took)
		}
	default:
		w.ts.Fatalf("stream %s?", args[0])
	}
}

func (w *world) beginStream() {
	c := w.dial()
	w.ts.Defer(func() { c.Close() })
	_, err := io.WriteString(c, request(w.p.port, []string{"POST", "/v1/responses"}, askJSON))
	w.ts.Check(err)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	w.ts.Check(err)
	first := make([]byte, len(firstEvent))
	_, err = io.ReadFull(res.Body, first)
	w.ts.Check(err)
	if res.StatusCode != 200 || string(first) != firstEvent {
		w.ts.Fatalf("the stream begins with %d %q", res.StatusCode, first)
	}
	w.stream = bufio.NewReader(res.Body)
}

// eachStart starts the proxy N times with WORDS..., and calls then with its
// server-info's name.
func (w *world) eachStart(args []string, then func(info string)) {
	n, err := strconv.Atoi(args[0])
	w.ts.Check(err)
	for range n {
		l := parseLaunch(w.ts, args[1:])
		info := w.infoFile(l)
		w.start(l)
		then(info)
	}
}

// races N WORDS... starts the proxy N times. A client that reads the
// server-info as soon as it is there must always be able to connect.
func (w *world) cmdRaces(args []string) {
	w.eachStart(args, func(info string) {
		w.awaitInfo(info, nil)
		w.dial().Close()
		w.checkPID()
		w.checkFirstLine()
		w.cmdEnd(nil)
	})
}

// reloads N WORDS... starts the proxy N times. SIGHUP must have its effect from
// when the server-info is there, which is looked for without a pause.
func (w *world) cmdReloads(args []string) {
	w.eachStart(args, func(info string) {
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if b, _ := os.ReadFile(info); len(b) > 0 {
				break
			}
		}
		w.cmdSignal([]string{"HUP"})
		w.until("SIGHUP is received", func() bool { return strings.Contains(w.p.text(), "INFO SIGHUP received") })
		w.cmdSignal([]string{"TERM"})
		w.cmdExits([]string{"anyhow", "any"})
	})
}
