package linelog

import (
	"sync"
	"time"
)

const (
	// perSecond is the number of lines that a user can cause in a second on average, and burst the number at once.
	perSecond = 10
	burst     = 100
	// maxUsers is the number of users with limits of their own. All others share one: a process that can act as many
	// users, such as the root of a user namespace, must not get more lines by that.
	maxUsers = 64
)

// Pseudo-users, for callers without a limit of their own.
const (
	Unidentified = -1 // not identified by the kernel
	Others       = -2 // beyond maxUsers
)

// Limiter limits the lines that each user can cause. Its methods may be called concurrently.
type Limiter struct {
	report func(uid, suppressed int64)

	mu    sync.Mutex
	users map[int64]int64 // lines that remain; if negative, lines suppressed in this second
	timer *time.Timer     // calls Flush once a second
}

// NewLimiter returns a limiter. Once a second it calls report for each user with suppressed lines, with their number.
func NewLimiter(report func(uid, suppressed int64)) *Limiter {
	return &Limiter{report: report, users: map[int64]int64{}}
}

// Allow reports whether a line caused by uid, or [Unidentified], may be written, and counts the line.
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

// Flush ends the current second: it reports the suppressed lines, and removes users with a full allowance. The limiter
// calls it once a second; its owner must call it at the end.
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
