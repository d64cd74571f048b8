package dump

import "sync"

// Limits of the queue, in bytes.
const (
	blockSize  = 32 << 10
	keepBlocks = 8
	maxQueued  = 16 << 20
	// maxOfOne is what one exchange may have in the queue. The queue takes only
	// the memory that it needs, usually a few blocks. This is for the moments
	// in which a busy machine does not let the writer run: 10 ms at 400 MB/s.
	maxOfOne = 4 << 20
	// yieldAt is what one may have there before it lets other goroutines run
	// first, the writer among them. Without that a body from a fast local
	// client leaves the writer no processor.
	yieldAt = 128 << 10
	// recordCost is what a record counts for, so that tiny pieces of many
	// messages are limited too.
	recordCost = 64
)

// queue holds what was handed over and is not yet on the disk. Whoever puts
// something in waits for nobody but others who copy a piece.
type queue struct {
	mu      sync.Mutex
	wake    sync.Cond // something was put in, or closed was set
	closed  bool
	records []record // from first on, in order
	first   int
	used    int // of maxQueued

	// The bytes of all records, one after another.
	front, back *block
	start, end  int // of the bytes, in front and in back
	free        *block
	frees       int
}

// record is a piece of a message, or its end.
type record struct {
	m     *message
	n     int
	isEnd bool
}

type block struct {
	next *block
	data [blockSize]byte
}

// put queues a copy of p, or does nothing and returns false when there is no
// room. The caller holds the lock.
func (q *queue) put(m *message, p []byte) bool {
	cost := len(p) + recordCost
	if q.used+cost > maxQueued || m.of.queued+cost > maxOfOne {
		return false
	}
	if last := q.last(); last != nil && last.m == m && !last.isEnd {
		last.n += len(p)
		cost = len(p)
	} else {
		q.push(record{m: m, n: len(p)})
	}
	q.used += cost
	m.of.queued += cost
	q.copyIn(p)
	return true
}

// putEnd always has room: there is one for each message that had room before.
func (q *queue) putEnd(m *message) {
	q.push(record{m: m, isEnd: true})
	q.used += recordCost
	m.of.queued += recordCost
}

func (q *queue) last() *record {
	if q.first == len(q.records) {
		return nil
	}
	return &q.records[len(q.records)-1]
}

func (q *queue) push(r record) {
	if q.first == len(q.records) {
		q.wake.Signal()
	}
	q.records = append(q.records, r)
}

func (q *queue) copyIn(p []byte) {
	for len(p) > 0 {
		if q.back == nil || q.end == blockSize {
			q.addBlock()
		}
		n := copy(q.back.data[q.end:], p)
		q.end += n
		p = p[n:]
	}
}

func (q *queue) addBlock() {
	b := q.free
	if b != nil {
		q.free, b.next = b.next, nil
		q.frees--
	} else {
		b = new(block)
	}
	if q.back == nil {
		q.front, q.start = b, 0
	} else {
		q.back.next = b
	}
	q.back, q.end = b, 0
}

// next waits for a record and returns as much of it as lies together, or an
// empty piece for the end of a message. It must be handed back with done. A nil
// message means that the queue is closed and empty.
func (q *queue) next() (m *message, piece []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.first == len(q.records) {
		if q.closed {
			return nil, nil
		}
		q.wake.Wait()
	}
	r := &q.records[q.first]
	if r.isEnd {
		return r.m, nil
	}
	return r.m, q.front.data[q.start:min(q.start+r.n, blockSize)]
}

// done takes n bytes that next returned out of the queue, or an end.
func (q *queue) done(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := &q.records[q.first]
	cost := n
	if r.n -= n; r.n == 0 {
		cost += recordCost
	}
	q.used -= cost
	r.m.of.queued -= cost
	if r.n == 0 {
		q.pop()
	}
	if q.start += n; q.start == blockSize || q.first == len(q.records) {
		q.dropBlock()
	}
}

func (q *queue) pop() {
	q.records[q.first] = record{}
	q.first++
	if q.first == len(q.records) || q.first >= 1024 {
		q.records = q.records[:copy(q.records, q.records[q.first:])]
		q.first = 0
	}
}

// dropBlock takes the first block out, if there is one. A few are kept; after a
// flood the rest is left to the garbage collector.
func (q *queue) dropBlock() {
	b := q.front
	if b == nil {
		return
	}
	q.front, q.start = b.next, 0
	if q.front == nil {
		q.back = nil
	}
	b.next = nil
	if q.frees < keepBlocks {
		b.next, q.free = q.free, b
		q.frees++
	}
}

// giveUp has further pieces of m dropped.
func (q *queue) giveUp(m *message) {
	q.mu.Lock()
	m.phase = ended
	q.mu.Unlock()
}

// close has next return nil once everything was taken out; nothing more comes
// in.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake.Broadcast()
}
