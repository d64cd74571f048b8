package linelog

import (
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// limited is a limiter with its reports.
type limited struct {
	*Limiter
	news     sync.Mutex
	reported map[int64]int64
}

func newLimited() *limited {
	l := &limited{reported: map[int64]int64{}}
	l.Limiter = NewLimiter(func(uid, n int64) {
		l.news.Lock()
		defer l.news.Unlock()
		l.reported[uid] += n
	})
	return l
}

// many calls Allow n times and returns how many lines were allowed.
func (l *limited) many(uid int64, n int) (allowed int) {
	for range n {
		if l.Allow(uid) {
			allowed++
		}
	}
	return allowed
}

// next waits until the second has ended, and returns the reports.
func (l *limited) next() map[int64]int64 {
	time.Sleep(time.Second)
	synctest.Wait()
	return l.take()
}

// take returns the reports since its last call.
func (l *limited) take() map[int64]int64 {
	l.news.Lock()
	defer l.news.Unlock()
	got := l.reported
	l.reported = map[int64]int64{}
	return got
}

// remembered returns the number of users that the limiter tracks.
func (l *limited) remembered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.users)
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited()
		if got := l.many(1, 1000); got != burst {
			t.Errorf("%d lines allowed at once", got)
		}
		if got := l.many(2, 5); got != 5 {
			t.Errorf("another user was allowed %d lines of 5", got)
		}
		if got := l.many(Unidentified, burst+1); got != burst {
			t.Errorf("unidentified users were allowed %d lines", got)
		}
		if got := l.next(); !maps.Equal(got, map[int64]int64{1: 1000 - burst, Unidentified: 1}) {
			t.Errorf("reported %v", got)
		}
		for range 5 {
			if got := l.many(1, 50); got != perSecond {
				t.Errorf("%d lines allowed in a later second", got)
			}
			if got := l.next(); !maps.Equal(got, map[int64]int64{1: 50 - perSecond}) {
				t.Errorf("reported %v", got)
			}
		}
		time.Sleep(burst / perSecond * time.Second)
		synctest.Wait()
		if got := l.take(); l.remembered() != 0 || len(got) != 0 {
			t.Errorf("%d users are remembered; reported %v", l.remembered(), got)
		}
		if got := l.many(1, 1000); got != burst {
			t.Errorf("%d lines allowed after a while", got)
		}
		l.Flush()
		if got := l.take(); !maps.Equal(got, map[int64]int64{1: 1000 - burst}) {
			t.Errorf("reported at the end %v", got)
		}
		time.Sleep(time.Minute) // no timer remains
	})
}

// TestLimiterOfManyUsers: a process that acts as many users cannot write many lines.
func TestLimiterOfManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimited()
		allowed := 0
		for uid := range int64(60_000) {
			allowed += l.many(uid, 3)
		}
		if want := maxUsers*3 + burst; allowed != want || l.remembered() != maxUsers+1 {
			t.Errorf("%d lines allowed, want %d; %d users remembered", allowed, want, l.remembered())
		}
		if got := l.next(); got[Others] != (60_000-maxUsers)*3-burst || len(got) != 1 {
			t.Errorf("reported %v", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if l.remembered() != 0 {
			t.Errorf("%d users are remembered", l.remembered())
		}
	})
}
