package dump

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

var (
	errSlow = errors.New("the disk is slower than the traffic; its body is truncated")
	errBusy = errors.New("the disk is slower than the traffic; it is left out")
)

// Exchange is the dump of one request and its answer. Its methods never wait
// for the disk and keep nothing that they are given. They may be called
// concurrently, and in any order: what comes too early or too late is dropped.
// Those of a nil Exchange do nothing.
type Exchange struct {
	dir     *Dir
	id      id
	queued  int // what it has in the queue, in bytes; guarded by the queue
	request message
	answer  message
}

// Request adds a piece of the request's body.
func (e *Exchange) Request(p []byte) {
	if e != nil {
		e.request.add(p)
	}
}

// RequestEnd ends the request; complete tells whether the client sent all of it.
func (e *Exchange) RequestEnd(complete bool) {
	if e != nil {
		e.request.end(!complete)
	}
}

// Answer begins the answer, with the fields as the upstream sent them. If it is
// not called there is no file of the answer.
func (e *Exchange) Answer(status int, fields []http1.Field) {
	if e == nil {
		return
	}
	head := heads.Get().(*[]byte)
	defer heads.Put(head)
	*head = appendAnswerHead((*head)[:0], status, fields)
	e.answer.begin(*head)
}

// Body adds a piece of the answer's body.
func (e *Exchange) Body(p []byte) {
	if e != nil {
		e.answer.add(p)
	}
}

// End ends the exchange, which must be the last call: a request that was not
// ended is truncated.
func (e *Exchange) End() {
	if e != nil {
		e.request.end(true)
		e.answer.end(false)
	}
}

// message is one of the two files of an exchange.
type message struct {
	of       *Exchange
	isAnswer bool
	lost     atomic.Bool // it was counted off

	// Guarded by the queue, up to the end of the message.
	phase phase
	short bool // the body that is on the disk is not all of it
	head  int  // the length of what stands in the file before the body

	// The writer's, and the composer's afterwards.
	file    *os.File
	size    int64 // written so far
	charged int64 // taken of the shelf
	failed  bool
}

// phase is how far the caller is with a message.
type phase int

const (
	unbegun phase = iota
	running
	ended // or given up
)

// id is what the file is named after.
func (m *message) id() id {
	id := m.of.id
	id.isAnswer = m.isAnswer
	return id
}

func (m *message) begin(head []byte) bool {
	q := &m.of.dir.queue
	q.mu.Lock()
	if m.phase != unbegun || q.closed {
		q.mu.Unlock()
		return false
	}
	m.phase, m.head = running, len(head)
	ok := q.put(m, head)
	if !ok {
		m.phase = ended
	}
	q.mu.Unlock()
	if !ok {
		m.of.dir.lose(m, errBusy)
	}
	return ok
}

// add queues a piece of the body. After one that was lost there are no others.
func (m *message) add(p []byte) {
	q := &m.of.dir.queue
	q.mu.Lock()
	if m.phase != running || m.short || q.closed || len(p) == 0 {
		q.mu.Unlock()
		return
	}
	m.short = !q.put(m, p)
	lost, long := m.short, m.of.queued > yieldAt
	q.mu.Unlock()
	if long {
		runtime.Gosched() // while the disk hangs, the writer is not among those who run
	}
	if lost {
		m.of.dir.lose(m, errSlow)
	}
}

func (m *message) end(short bool) {
	q := &m.of.dir.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if m.phase == running && !q.closed {
		m.short = m.short || short
		q.putEnd(m)
	}
	m.phase = ended
}
