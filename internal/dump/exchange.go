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
	errBusy = errors.New("the disk is slower than the traffic, or too many exchanges are under way; it is left out")
)

// Exchange is the dump of one request and its response. Its methods never wait for the disk and keep nothing that they
// are given. They may be called concurrently, and in any order: what comes too early or too late is dropped. Those of a
// nil Exchange do nothing.
type Exchange struct{ request, response message }

// Request adds a piece of the request's body.
func (e *Exchange) Request(p []byte) {
	if e != nil {
		e.request.add(p)
	}
}

// RequestEnd ends the request; complete reports whether the client sent all of it.
func (e *Exchange) RequestEnd(complete bool) {
	if e != nil {
		e.request.end(!complete)
	}
}

// Answer begins the response, with the fields as the upstream sent them. If it is not called there is no file of it.
func (e *Exchange) Answer(status int, fields []http1.Field) {
	if e != nil {
		e.response.begin(responseHead(status, fields))
	}
}

// Body adds a piece of the response's body.
func (e *Exchange) Body(p []byte) {
	if e != nil {
		e.response.add(p)
	}
}

// End ends the exchange, which must be the last call: a request that was not ended is truncated.
func (e *Exchange) End() {
	if e != nil {
		e.request.end(true)
		e.response.end(false)
	}
}

// message is one of the two files of an exchange.
type message struct {
	dir  *Dir
	id   id
	user uint32
	lost atomic.Bool // it was counted off

	// Guarded by dir.mu.
	begun, ended bool
	short        bool  // what is dumped of the body is not all of it
	queued       int64 // what it has of dir.queue

	// The writer's.
	head   []byte   // what comes before the body
	body   []byte   // as far as it is there and not written
	held   int64    // of queued
	file   *os.File // nil until something is written
	isText bool     // the body is a string, whose beginning is written
	failed bool
	size   int64 // of the file
	taken  int64 // of the quota
}

// piece is what the writer gets: the head of a message first, then its body piece by piece, and a piece without data at
// its end.
type piece struct {
	*message
	data []byte
}

// begin returns false if there is no dump of the message.
func (m *message) begin(head []byte) bool {
	d := m.dir
	d.mu.Lock()
	if m.begun || m.ended || d.closed {
		d.mu.Unlock()
		return false
	}
	m.begun = true
	ok := d.open.take(m.user, 1)
	if ok && !d.put(m, head) {
		d.open.release(m.user, 1)
		ok = false
	}
	if m.ended = !ok; ok {
		d.unfinished[m] = struct{}{}
	}
	d.mu.Unlock()
	if !ok {
		d.recordLoss(m, errBusy)
	}
	return ok
}

// add dumps a piece of the body. After one that was lost there are no others.
func (m *message) add(p []byte) {
	d := m.dir
	d.mu.Lock()
	if !m.begun || m.ended || m.short || len(p) == 0 {
		d.mu.Unlock()
		return
	}
	m.short = !d.put(m, p)
	lost, long := m.short, m.queued > yieldAt
	d.mu.Unlock()
	if long {
		runtime.Gosched() // or a body from a fast local client leaves the writer no processor
	}
	if lost {
		d.recordLoss(m, errSlow)
	}
}

func (m *message) end(short bool) {
	m.dir.mu.Lock()
	defer m.dir.mu.Unlock()
	m.dir.end(m, short)
}

// end needs d.mu.
func (d *Dir) end(m *message, short bool) {
	if m.begun && !m.ended {
		m.short = m.short || short
		d.pieces <- piece{m, nil} // there is always room
	}
	m.ended = true
}

// put queues a copy of p, or reports that there is no room. It needs d.mu.
func (d *Dir) put(m *message, p []byte) bool {
	n := int64(len(p) + pieceCost)
	if m.queued+n > maxOfOne || !d.queue.take(m.user, n) {
		return false
	}
	m.queued += n
	var data []byte
	if last := len(d.spare) - 1; last >= 0 {
		data, d.spare = d.spare[last], d.spare[:last]
	}
	d.pieces <- piece{m, append(data, p...)} // there is always room
	return true
}

// share divides a number of things among users. Each may take as many as it leaves to the others, so that no user keeps
// another out: one alone gets half, the next one a quarter.
type share struct {
	max, used int64
	users     map[uint32]int64
}

func newShare(max int64) share { return share{max: max, users: map[uint32]int64{}} }

// take takes n for a user, or reports that there are not enough.
func (s *share) take(user uint32, n int64) bool {
	if s.users[user]+n > s.max-s.used-n {
		return false
	}
	s.used += n
	s.users[user] += n
	return true
}

// release gives n back.
func (s *share) release(user uint32, n int64) {
	s.used -= n
	if s.users[user] -= n; s.users[user] <= 0 {
		delete(s.users, user)
	}
}
