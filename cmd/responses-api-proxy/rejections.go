package main

import (
	"log/slog"
	"sync"
	"time"
)

// rejectedEvery is how often a status of the upstream has a line in the log.
const rejectedEvery = time.Minute

// rejections logs that the upstream rejects requests with the key: the first one
// with each status at once, and the number of the others once a minute.
type rejections struct {
	log *errorLog

	mu  sync.Mutex
	all map[int]*rejection // by status; with a line in the log that is not a minute old
}

type rejection struct {
	count int64 // since the last line
	timer *time.Timer
}

var rejectionTexts = map[int]struct {
	level      slog.Level
	text, hint string
}{
	401: {slog.LevelError, "the upstream rejects the API key", "replace the key if it was revoked; it must belong to the upstream of --upstream-url"},
	403: {slog.LevelWarn, "the upstream forbids requests with this API key", "the key may lack a permission, or the model, project or country may be excluded"},
	429: {slog.LevelWarn, "the upstream limits requests with this API key", "its rate limit or its quota is exhausted; the response to the client says which"},
}

func newRejections(log *errorLog) *rejections {
	return &rejections{log: log, all: map[int]*rejection{}}
}

// add counts a response with one of the statuses of rejectionTexts.
func (r *rejections) add(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.all[status]; one != nil {
		one.count++
		return
	}
	r.write(status, 1)
	one := &rejection{}
	one.timer = time.AfterFunc(rejectedEvery, func() { r.later(status, one) })
	r.all[status] = one
}

// later writes what has come since the last line, if anything has.
func (r *rejections) later(status int, one *rejection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.all[status] != one: // of an earlier key
	case one.count == 0:
		delete(r.all, status)
	default:
		r.write(status, one.count)
		one.count = 0
		one.timer.Reset(rejectedEvery)
	}
}

// newKey forgets the key before: the first rejections of the new one are logged at once.
func (r *rejections) newKey() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.all {
		one.timer.Stop()
	}
	clear(r.all)
}

func (r *rejections) write(status int, count int64) {
	t := rejectionTexts[status]
	r.log.record(t.level, t.text, "status", status, "count", count, "hint", t.hint)
}
