package linelog

import (
	"sync"
	"time"
)

const (
	// perSecond is how many lines a user can cause in a second in the long run, and burst how many at once.
	perSecond = 10
	burst     = 100
	// maxUsers is how many users are distinguished. The rest share a limit: one that can be many users, as the root of
	// a user namespace can, must not be able to write more lines by that.
	maxUsers = 64
)

// Users that have no uid of their own.
const (
	Unidentified = -1 // by the kernel
	Others       = -2 // beyond those that are distinguished
)

// Limiter limits how many lines each user can cause. Its methods may be used concurrently.
type Limiter struct {
	report func(uid, suppressed int64)

	mu    sync.Mutex
	users map[int64]int64 // lines that may still be written; if negative, lines suppressed within the second
	timer *time.Timer     // calls Flush in a second
}

// NewLimiter returns a limiter. Once a second, for each user some of whose lines were suppressed, report is called with
// their number.
func NewLimiter(report func(uid, suppressed int64)) *Limiter {
	return &Limiter{report: report, users: map[int64]int64{}}
}

// Allow reports whether a line that uid, or [Unidentified], has caused may be written. It counts it in any case.
func (l *Limiter) Allow(uid int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.users) == 0 {
		l.timer = time.AfterFunc(time.Second, l.Flush)
	}
	left, known := l.users[uid]
	if !known && len(l.users) >= maxUsers {
		uid = Others
		left, known = l.users[uid]
	}
	if !known {
		left = burst
	}
	l.users[uid] = left - 1
	return left > 0
}

// Flush ends the present second: it reports what was suppressed in it, and forgets users of whom nothing must be
// remembered. The limiter calls it once a second; its owner must call it at the end.
func (l *Limiter) Flush() {
	suppressed := map[int64]int64{}
	l.mu.Lock()
	for uid, left := range l.users {
		if left < 0 {
			suppressed[uid] = -left
		}
		if l.users[uid] = max(left, 0) + perSecond; l.users[uid] >= burst {
			delete(l.users, uid)
		}
	}
	if len(l.users) > 0 {
		l.timer.Reset(time.Second)
	}
	l.mu.Unlock()
	for uid, n := range suppressed {
		l.report(uid, n)
	}
}
