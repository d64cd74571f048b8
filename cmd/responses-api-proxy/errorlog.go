package main

import (
	"io"
	"time"
)

const (
	linePrefix    = "responses-api-proxy: "
	maxLines      = 256 // waiting to be written
	closePatience = time.Second
)

// errorLog writes lines to standard error and never makes anybody wait for it:
// who reads there may have stopped reading, or be gone. Each line is one
// write.
//
// The rules of messages: no capital at the beginning, no full stop at the end;
// first what went wrong, then what to do.
type errorLog struct {
	w      io.Writer
	before io.Closer // w, if it came by to
	lines  chan message
	quit   chan struct{}
	done   chan struct{}
}

// message is a line, or where the lines after it go.
type message struct {
	line string
	to   io.WriteCloser
}

func newErrorLog(w io.Writer) *errorLog {
	l := &errorLog{w: w, lines: make(chan message, maxLines), quit: make(chan struct{}), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *errorLog) run() {
	defer close(l.done)
	for {
		select {
		case m := <-l.lines:
			l.handle(m)
		case <-l.quit:
			for range len(l.lines) {
				l.handle(<-l.lines)
			}
			return
		}
	}
}

func (l *errorLog) handle(m message) {
	if m.to == nil {
		io.WriteString(l.w, m.line)
		return
	}
	if l.before != nil {
		l.before.Close()
	}
	l.w, l.before = m.to, m.to
}

// to sends what is logged from now on to w, and closes what it was sent to
// before, but not what it began with. Where nobody reads that any more, it
// blocks, for a moment at most.
func (l *errorLog) to(w io.WriteCloser) {
	select {
	case l.lines <- message{to: w}:
	case <-time.After(closePatience):
		w.Close()
	}
}

// line logs an event. It is dropped if too many lines wait.
func (l *errorLog) line(text string) { l.enqueue(linePrefix + text + "\n") }

// print says what the original says, without its colon.
func (l *errorLog) print(text string) { l.enqueue("responses-api-proxy " + text + "\n") }

func (l *errorLog) enqueue(line string) {
	select {
	case l.lines <- message{line: line}:
	default:
	}
}

// close waits for a moment until all lines are written. What is logged after
// it is lost.
func (l *errorLog) close() {
	close(l.quit)
	select {
	case <-l.done:
	case <-time.After(closePatience):
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
