package dump

import (
	"bytes"
	"errors"
	"os"
	"runtime"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

var (
	errSlow = errors.New("the disk is slower than the traffic; its body is truncated")
	errBusy = errors.New("the disk is slower than the traffic, or too many exchanges are under way; it is left out")
)

// Exchange is the dump of one request and its response. Its methods never wait for the disk and do not keep their
// arguments. They may be called concurrently, and in any order: a call that is too early or too late is ignored. Those
// of a nil Exchange do nothing.
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

// Answer begins the response, with the fields as the upstream sent them. Without this call there is no file of the
// response.
func (e *Exchange) Answer(status int, fields []http1.Field) {
	if e != nil {
		e.response.begin(head{Status: status}.render(fields, bytes.ToLower))
	}
}

// Body adds a piece of the response's body.
func (e *Exchange) Body(p []byte) {
	if e != nil {
		e.response.add(p)
	}
}

// End ends the exchange and must be the last call: a request that has not ended is truncated.
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

	// Guarded by dir.mu.
	used   bool  // it was begun or ended, and cannot begin
	open   bool  // between its beginning and its end
	short  bool  // a part of the body is not in the dump
	lost   bool  // it was counted as lost
	queued int64 // its part of dir.queue

	// The writer's.
	file   *os.File // nil until something is written
	body   []byte   // received and not written
	isText bool     // the body is a string, whose beginning is written
	failed bool
	size   int64 // size of the file, whose blocks are counted in quota
}

// piece is a message to the writer: first everything before the body, then the body piece by piece, and at the end a
// piece without data.
type piece struct {
	*message
	data []byte
}

// begin returns false if the message is not dumped.
func (m *message) begin(head []byte) bool {
	d := m.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.used || d.closed {
		return false
	}
	m.used = true
	ok := d.open.take(m.user, 1)
	if ok && !m.put(head) {
		d.open.release(m.user, 1)
		ok = false
	}
	if !ok {
		d.recordLoss(m, errBusy)
		return false
	}
	m.open = true
	d.unfinished[m] = struct{}{}
	return true
}

// add dumps a piece of the body. After a lost piece it ignores all others.
func (m *message) add(p []byte) {
	m.dir.mu.Lock()
	if m.open && !m.short && len(p) > 0 && !m.put(p) {
		m.short = true
		m.dir.recordLoss(m, errSlow)
	}
	long := m.queued > yieldAt
	m.dir.mu.Unlock()
	if long {
		runtime.Gosched() // or a body from a fast local client leaves the writer no processor
	}
}

func (m *message) end(short bool) {
	m.dir.mu.Lock()
	defer m.dir.mu.Unlock()
	m.endLocked(short)
}

// endLocked ends the message. d.mu must be held.
func (m *message) endLocked(short bool) {
	if m.open {
		m.short = m.short || short
		m.dir.pieces <- piece{m, nil}
	}
	m.used, m.open = true, false
}

// put queues a copy of p, or returns false if there is no space. d.mu must be held.
func (m *message) put(p []byte) bool {
	n := int64(len(p) + pieceCost)
	if m.queued+n > maxOfOne || !m.dir.queue.take(m.user, n) {
		return false
	}
	m.queued += n
	m.dir.pieces <- piece{m, bytes.Clone(p)}
	return true
}

// share divides a resource among users. A user may take at most as much as is left to the others, so that no user
// excludes another: a single user gets half, the next one a quarter.
type share struct {
	max, used int64
	users     map[uint32]int64
}

func newShare(max int64) share { return share{max: max, users: map[uint32]int64{}} }

// take takes n for a user, or returns false if there is not enough.
func (s *share) take(user uint32, n int64) bool {
	if s.users[user]+n > s.max-s.used-n {
		return false
	}
	s.used += n
	s.users[user] += n
	return true
}

// release returns n.
func (s *share) release(user uint32, n int64) {
	s.used -= n
	if s.users[user] -= n; s.users[user] <= 0 {
		delete(s.users, user)
	}
}
