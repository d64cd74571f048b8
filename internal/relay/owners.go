package relay

import (
	"crypto/sha256"
	"sync"
)

// maxOwned is how many responses are known; the oldest are forgotten first.
const maxOwned = 1 << 16

// owners knows which user made which response. Nothing of it outlives the
// process.
type owners struct {
	limit int

	mu   sync.Mutex
	all  map[responseKey]*owned
	ring []*owned // in the order in which they came; next is the oldest once it is full
	next int
}

// responseKey stands for an id: tables of texts that others choose would be
// larger, and a hash of this size has no collisions that anybody can find.
type responseKey [16]byte

func keyOfResponse(id []byte) (k responseKey) {
	sum := sha256.Sum256(id)
	copy(k[:], sum[:])
	return k
}

// owned is a response and what its user has been charged for it so far.
type owned struct {
	key     responseKey
	uid     uint32
	charged int64
	settled bool // charged is what the response has cost in the end
	touched bool // its user has asked to cancel or to delete it
}

func newOwners(limit int) *owners {
	return &owners{limit: limit, all: map[responseKey]*owned{}}
}

// add notes that uid has made the response. Whoever made it first keeps it.
func (o *owners) add(k responseKey, uid uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all[k] != nil {
		return
	}
	e := &owned{key: k, uid: uid}
	o.all[k] = e
	if len(o.ring) < o.limit {
		o.ring = append(o.ring, e)
		return
	}
	if old := o.ring[o.next]; o.all[old.key] == old { // or it was forgotten, and perhaps made anew
		delete(o.all, old.key)
	}
	o.ring[o.next] = e
	o.next = (o.next + 1) % o.limit
}

// owns tells whether uid has made the response.
func (o *owners) owns(k responseKey, uid uint32) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[k]
	return e != nil && e.uid == uid
}

// forget drops a response that is no more.
func (o *owners) forget(k responseKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, k)
}

// interfere notes that the response's user may end it before its time.
func (o *owners) interfere(k responseKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.all[k]; e != nil {
		e.touched = true
	}
}

// untouched reports whether only the upstream can have ended the response.
func (o *owners) untouched(k responseKey) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[k]
	return e != nil && !e.touched
}

// charge notes that the response has cost tokens so far, and returns how many
// of them are new: fewer than 0 if it turns out to have cost less than it was
// charged for. After a sum that is final nothing is new any more, however often
// the response is fetched; first tells that none was before.
func (o *owners) charge(k responseKey, tokens int64, final bool) (more int64, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.all[k]
	if e == nil || e.settled {
		return 0, false
	}
	if more = tokens - e.charged; !final {
		more = max(0, more)
	}
	e.charged += more
	e.settled = final
	return more, true
}
