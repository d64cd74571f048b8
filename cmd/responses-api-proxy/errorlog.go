package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/linelog"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/relay"
)

const (
	linePrefix = "responses-api-proxy: "
	maxText    = 2000 // bytes of a plain line
	maxPath    = 200  // bytes of a request's path in the log
	maxAgent   = 64   // bytes of a client's name in the log
)

// errorLog writes records to standard error, or to --log-file, and never makes a caller wait: the reader may have
// stopped reading, or be gone. Each record is one line, whatever is in it. An error that keeps the program from
// starting is a plain line, without a time.
//
// Messages begin with no capital and end with no period. The attribute hint has what the operator can do.
type errorLog struct {
	*slog.Logger
	*linelog.Log
	refusals *linelog.Limiter
	names    map[uint32]string // of users
	next     *linelog.Target   // what takeOver goes on with; nil if nothing
}

func errorLogTo(to *linelog.Target) *errorLog {
	l := &errorLog{}
	l.Log = linelog.New(to, "log", 0, l.report)
	l.refusals = linelog.NewLimiter(l.suppressed)
	l.setFormat("text")
	return l
}

// setFormat sets the form of records: text or json.
func (l *errorLog) setFormat(form string) {
	l.Logger = slog.New(linelog.NewHandler(l.Log, form == "json"))
}

// plain writes a line without a time.
func (l *errorLog) plain(prefix, text string) {
	l.Write(append(linelog.AppendText([]byte(prefix), text, maxText), '\n'))
}

// report logs an error that a background task has met.
func (l *errorLog) report(err error) { l.Warn(err.Error()) }

// warning logs a text; the part behind its last semicolon becomes the attribute hint.
func (l *errorLog) warning(text string) {
	if i := strings.LastIndex(text, "; "); i >= 0 {
		l.Warn(text[:i], "hint", text[i+len("; "):])
		return
	}
	l.Warn(text)
}

// upstreamFailures stands for requests of unidentified users that the upstream has failed: what they are refused for
// must not keep the reason of these out.
const upstreamFailures = -3

// request logs why a request has failed, unless its user has caused too many lines within the second.
func (l *errorLog) request(r *relay.Request, e *apierror.Error) {
	who := r.Session.Caller()
	user := who.User()
	if user == linelog.Unidentified && strings.HasPrefix(string(e.Code), "upstream_") {
		user = upstreamFailures
	}
	if !l.refusals.Allow(user) {
		return
	}
	level, text := slog.LevelWarn, "request refused"
	switch {
	case e.Status >= 500 && e.Code != apierror.MalformedRequest: // 501 and 505 are the fault of the client
		level, text = slog.LevelError, "request failed"
	case e.Status == 426: // Codex tries a WebSocket first
		level = slog.LevelInfo
	}
	uid, name := l.user(&who)
	method, path, agent := identify(r)
	l.record(level, text, "code", string(e.Code), "uid", uid, "user", name, "method", method, "path", path, "agent", agent,
		"route", r.Entry.Route, "reason", e.Detail, "hint", e.Hint)
}

// record writes a record with attributes, which are pairs of a name and a value, but for those that are nil or "".
func (l *errorLog) record(level slog.Level, text string, pairs ...any) {
	var attrs []any
	for pair := range slices.Chunk(pairs, 2) {
		if pair[1] != nil && pair[1] != "" {
			attrs = append(attrs, pair...)
		}
	}
	l.Logger.Log(context.Background(), level, text, attrs...)
}

// user returns the caller's number and name, as far as they are known.
func (l *errorLog) user(who *audit.Caller) (uid any, name string) {
	if !who.Known {
		return nil, ""
	}
	return who.UID, l.names[who.UID]
}

// identify returns what identifies the client's program and its request: the method, the path without its query, which
// may hold secrets, and the first product of User-Agent.
func identify(r *relay.Request) (method, path, agent string) {
	if r.Head == nil {
		return "", "", ""
	}
	target, _, query := bytes.Cut(r.Head.Target, []byte("?"))
	if i := bytes.LastIndexByte(target, '@'); i >= 0 && target[0] != '/' { // of a URL with a password
		target = target[i:]
	}
	path = shorten(target, maxPath)
	if query {
		path += "?..."
	}
	product, _, _ := bytes.Cut(r.Head.Value("user-agent"), []byte(" "))
	return shorten(r.Head.Method, maxAgent), path, shorten(product, maxAgent)
}

// shorten copies the first bytes of p, up to what may be a key: a client may have one of its own, and put it into a
// URL.
func shorten(p []byte, limit int) string {
	text := string(p[:min(len(p), limit)])
	before, _, hasKey := strings.Cut(text, "sk-")
	switch {
	case hasKey:
		return before + "sk-..."
	case len(p) > limit:
		return text + "..."
	}
	return text
}

// suppressed logs that n lines of a user's were left out.
func (l *errorLog) suppressed(uid, n int64) {
	text := "more failed requests suppressed within a second"
	if uid == linelog.Others {
		text = "more failed requests of several users suppressed within a second"
	}
	number, name := l.user(&audit.Caller{UID: uint32(uid), Known: uid >= 0})
	l.record(slog.LevelWarn, text, "count", n, "uid", number, "user", name)
}

// close waits for a moment until all lines are written. Lines that are logged later are lost.
func (l *errorLog) close() {
	l.refusals.Flush()
	l.Close()
	if l.next != nil {
		l.next.Close()
	}
}

// takeOver is called after the start lines: the log goes on in --log-file.
func (l *errorLog) takeOver() {
	if l.next != nil {
		l.Redirect(l.next)
		l.next = nil
	}
}

// fatal writes why the program does not start and returns its exit code.
func (l *errorLog) fatal(err error) int {
	text := err.Error()
	if e, ok := errors.AsType[*upstream.Error](err); ok && e.Hint != "" {
		text += "; " + e.Hint
	}
	l.plain(linePrefix, text)
	return 1
}

// usage writes what is wrong with the command line and returns the exit code.
func (l *errorLog) usage(err error) int {
	l.plain(linePrefix, err.Error())
	l.plain(linePrefix, "run it with --help for its flags")
	return 2
}

// rejectedEvery is how often a status of the upstream has a line in the log.
const rejectedEvery = time.Minute

// rejections logs that the upstream rejects requests with the key: the first one with each status at once, and the
// number of the others once a minute.
type rejections struct {
	log *errorLog

	mu     sync.Mutex
	counts map[int]int64 // by status: responses since the line in the log, which is not a minute old
	key    int           // grows with each new key
}

var rejectionTexts = map[int]struct {
	level      slog.Level
	text, hint string
}{
	401: {slog.LevelError, "the upstream rejects the API key", "replace the key if it was revoked; it must belong to the upstream of --upstream-url"},
	403: {slog.LevelWarn, "the upstream forbids requests with this API key", "the key may lack a permission, or the model, project or country may be excluded"},
	429: {slog.LevelWarn, "the upstream limits requests with this API key", "its rate limit or its quota is exhausted; the response to the client says which"},
}

// add counts a response with one of the statuses of rejectionTexts.
func (r *rejections) add(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, logged := r.counts[status]; logged {
		r.counts[status]++
		return
	}
	r.write(status, 1)
}

// write writes a line, and in a minute another one if there have been more responses. r.mu must be held.
func (r *rejections) write(status int, count int64) {
	t, key := rejectionTexts[status], r.key
	r.log.record(t.level, t.text, "status", status, "count", count, "hint", t.hint)
	r.counts[status] = 0
	time.AfterFunc(rejectedEvery, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch n := r.counts[status]; {
		case key != r.key: // of an earlier key
		case n == 0:
			delete(r.counts, status)
		default:
			r.write(status, n)
		}
	})
}

// newKey forgets the key before: the first rejections of the new one are logged at once.
func (r *rejections) newKey() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.key++
	clear(r.counts)
}

// openLog prepares for --log-file: the start lines still go to where standard error was, but the descriptors of
// standard error and standard output are given back, so that a runner that waits for their end need not wait for us.
func (s *service) openLog() error {
	to, err := linelog.File(s.opts.logFile, s.opts.owner)
	if err != nil {
		return fmt.Errorf("cannot open --log-file: %w", err)
	}
	s.errs.next = to
	s.reopened("--log-file", s.opts.logFile, s.errs.Reopen)
	err = detach(2)
	if s.opts.audit != "-" {
		err = errors.Join(err, detach(1))
	}
	if err != nil {
		return fmt.Errorf("cannot give back standard output and standard error: %w", err)
	}
	return nil
}

// hideFaults leaves the log as the only writer to standard error. When the program faults, the runtime writes stacks
// with their arguments and registers there, and nothing else can prevent that: GOTRACEBACK does not hold for SIGTRAP,
// SIGILL and faults inside the runtime.
func (o *options) hideFaults() error {
	if o.protection == off {
		return nil // for debugging
	}
	if err := detach(2); err != nil {
		return fmt.Errorf("cannot hide what the runtime prints of faults: %w", err)
	}
	return nil
}

// reopened has SIGHUP open the file of a flag again, and warns if that could not be done after a rotation has renamed
// it.
func (s *service) reopened(flag, path string, reopen func()) {
	s.needs.Append = append(s.needs.Append, directory(path))
	s.onHangup(reopen)
	uid, groups := os.Geteuid(), []int{os.Getegid()}
	if u := s.opts.runAs; u != nil {
		uid, groups = u.UID, []int{u.GID}
	} else if more, err := os.Getgroups(); err == nil {
		groups = append(groups, more...)
	}
	file, err := os.Stat(path)
	if dir := directory(path); err == nil && file.Mode().IsRegular() && !mayCreate(dir, uid, groups) {
		s.warnings = append(s.warnings, fmt.Sprintf("SIGHUP will not open %s %s again after it was renamed: uid %d may not create files in %s; "+
			"chown that, or have the rotation create the file", flag, path, uid, dir))
	}
}
