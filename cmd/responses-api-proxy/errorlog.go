package main

import (
	"fmt"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
	"github.com/responses-api-proxy/responses-api-proxy/internal/audit"
	"github.com/responses-api-proxy/responses-api-proxy/internal/linelog"
)

const (
	linePrefix = "responses-api-proxy: "
	maxText    = 2000 // bytes of a message; the reasons of protections are a few hundred
)

// errorLog writes messages to standard error, or to --log-file, and never makes
// a caller wait: the reader may have stopped reading, or be gone. Each message
// is one line, whatever is in it.
//
// The rules of messages: no capital at the beginning, no period at the end;
// first what went wrong, then what to do.
type errorLog struct {
	*linelog.Log
	refusals *linelog.Limiter
	next     *linelog.Target // what takeOver goes on with; nil if nothing
}

func newErrorLog() (*errorLog, error) {
	to, err := linelog.Standard(2)
	if err != nil {
		return nil, err
	}
	l := &errorLog{}
	l.Log = linelog.New(to, linelog.Config{Name: "log", Report: l.report})
	l.refusals = linelog.NewLimiter(l.suppressed)
	return l, nil
}

// line logs an event.
func (l *errorLog) line(text string) { l.write(linePrefix, text) }

func (l *errorLog) write(prefix, text string) {
	l.Write(append(linelog.AppendText([]byte(prefix), text, maxText), '\n'))
}

// report logs an error that a background task has met.
func (l *errorLog) report(err error) { l.line(err.Error()) }

// upstreamFailures stands for requests of unidentified users that the upstream
// has failed: what they are refused for must not keep the reason of these out.
const upstreamFailures = -3

// request logs why a request has failed, unless its user has caused too many
// lines within the second.
func (l *errorLog) request(who audit.Caller, e *apierror.Error) {
	user := who.User()
	if user == linelog.Unidentified && strings.HasPrefix(string(e.Code), "upstream_") {
		user = upstreamFailures
	}
	if l.refusals.Allow(user) {
		l.line(e.Log())
	}
}

// suppressed logs that n lines of a user's were left out.
func (l *errorLog) suppressed(uid, n int64) {
	switch {
	case uid >= 0:
		l.line(fmt.Sprintf("%d more failed requests of uid %d suppressed within a second", n, uid))
	case uid == linelog.Unidentified:
		l.line(fmt.Sprintf("%d more failed requests suppressed within a second", n))
	default:
		l.line(fmt.Sprintf("%d more failed requests of several users suppressed within a second", n))
	}
}

// close waits for a moment until all lines are written. What is logged after
// it is lost.
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

// fatal logs why the program ends and returns its exit code.
func (l *errorLog) fatal(err error) int {
	l.line(err.Error())
	return 1
}

// usage logs what is wrong with the command line and returns the exit code.
func (l *errorLog) usage(err error) int {
	l.line(err.Error())
	l.line("run it with --help for its flags")
	return 2
}
