package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

const (
	linePrefix = "responses-api-proxy: "
	maxText    = 2000 // bytes of a plain line
	maxPath    = 200  // bytes of a request's path in the log
	maxAgent   = 64   // bytes of a client's name in the log
)

// errorLog writes records to standard error, or to --log-file, and never makes
// a caller wait: the reader may have stopped reading, or be gone. Each record is
// one line, whatever is in it. An error that keeps the program from starting is
// a plain line, without a time.
//
// Messages begin with no capital and end with no period. The attribute hint has
// what the operator can do.
type errorLog struct {
	*slog.Logger
	*linelog.Log
	refusals *linelog.Limiter
	names    map[uint32]string // of users
	next     *linelog.Target   // what takeOver goes on with; nil if nothing
}

func newErrorLog() (*errorLog, error) {
	to, err := linelog.Standard(2)
	if err != nil {
		return nil, err
	}
	return errorLogTo(to), nil
}

func errorLogTo(to *linelog.Target) *errorLog {
	l := &errorLog{}
	l.Log = linelog.New(to, linelog.Config{Name: "log", Report: l.report})
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

// upstreamFailures stands for requests of unidentified users that the upstream
// has failed: what they are refused for must not keep the reason of these out.
const upstreamFailures = -3

// request logs why a request has failed, unless its user has caused too many
// lines within the second.
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
	case e.Status >= 500:
		level, text = slog.LevelError, "request failed"
	case e.Status == 426: // Codex tries a WebSocket first
		level = slog.LevelInfo
	}
	all := attrs{slog.String("code", string(e.Code))}
	all.addUser(l, &who)
	all.addHead(r)
	all.add("route", r.Entry.Route)
	all.add("reason", e.Detail)
	all.add("hint", e.Hint)
	l.LogAttrs(context.Background(), level, text, all...)
}

// attrs are the attributes of a record.
type attrs []slog.Attr

// add adds a text, unless it is empty.
func (a *attrs) add(name, text string) {
	if text != "" {
		*a = append(*a, slog.String(name, text))
	}
}

// addUser adds the caller's number and name, as far as they are known.
func (a *attrs) addUser(l *errorLog, who *audit.Caller) {
	if who.Known {
		*a = append(*a, slog.Int64("uid", int64(who.UID)))
		a.add("user", l.names[who.UID])
	}
}

// addHead adds what identifies the client's program and its request: the method, the path without its query, which may
// hold secrets, and the first product of User-Agent.
func (a *attrs) addHead(r *relay.Request) {
	if r.Head == nil {
		return
	}
	a.add("method", shorten(r.Head.Method, maxAgent))
	path, _, query := bytes.Cut(r.Head.Target, []byte("?"))
	if i := bytes.LastIndexByte(path, '@'); i >= 0 && path[0] != '/' { // of a URL with a password
		path = path[i:]
	}
	text := shorten(path, maxPath)
	if query {
		text += "?..."
	}
	a.add("path", text)
	for _, f := range r.Head.Fields {
		if strings.EqualFold(string(f.Name), "user-agent") {
			product, _, _ := bytes.Cut(f.Value, []byte(" "))
			a.add("agent", shorten(product, maxAgent))
		}
	}
}

// shorten copies the first bytes of p, up to what may be a key: a client may have
// one of its own, and put it into a URL.
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
	text, all := "more failed requests suppressed within a second", attrs{slog.Int64("count", n)}
	if uid == linelog.Others {
		text = "more failed requests of several users suppressed within a second"
	}
	all.addUser(l, &audit.Caller{UID: uint32(uid), Known: uid >= 0})
	l.LogAttrs(context.Background(), slog.LevelWarn, text, all...)
}

// close waits for a moment until all lines are written. Lines that are logged
// later are lost.
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
	l.plain(linePrefix, err.Error()+hintOf(err))
	return 1
}

// hintOf returns what an error of the upstream's suggests, as the end of a line.
func hintOf(err error) string {
	if e, ok := errors.AsType[*upstream.Error](err); ok && e.Hint != "" {
		return "; " + e.Hint
	}
	return ""
}

// usage writes what is wrong with the command line and returns the exit code.
func (l *errorLog) usage(err error) int {
	l.plain(linePrefix, err.Error())
	l.plain(linePrefix, "run it with --help for its flags")
	return 2
}
