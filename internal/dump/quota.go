package dump

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// id identifies a dump and determines its name.
type id struct {
	time       int64 // of the request, in Unix milliseconds
	sequence   int64
	isResponse bool
}

// String returns the name of the file.
func (i id) String() string {
	kind := "request"
	if i.isResponse {
		kind = "response"
	}
	return fmt.Sprintf("%06d-%d-%s.json", i.sequence, i.time, kind)
}

// part returns the name of the unfinished file, which no tool considers a dump.
func (i id) part() string { return "." + i.String() + ".part" }

// parseID parses exactly the names that String returns.
func parseID(name string) (i id, ok bool) {
	_, err := fmt.Sscanf(name, "%d-%d-", &i.sequence, &i.time)
	i.isResponse = strings.HasSuffix(name, "-response.json")
	return i, err == nil && i.sequence > 0 && i.String() == name
}

// isLeftover reports whether a name is that of an unfinished dump; .raw is an earlier version's.
func isLeftover(name string) bool {
	end := path.Ext(name)
	whole, hidden := strings.CutPrefix(strings.TrimSuffix(name, end), ".")
	_, ours := parseID(whole)
	return hidden && ours && (end == ".part" || end == ".raw")
}

var errFull = errors.New("it needs more room than the directory's limit leaves")

// earlier is the pseudo-user of earlier runs' dumps, whose users are unknown.
const earlier = -1

// quota keeps the size of the dumps within the limit.
type quota struct {
	files      *safefile.Dir
	unfinished share               // of the limit
	finished   map[int64]*finished // by user
	used       int64               // bytes in use by all dumps
}

// finished are the finished dumps of one user, the oldest first, and their size.
type finished struct {
	dumps []stored
	size  int64
}

// stored is a finished dump and its size.
type stored struct {
	id
	size int64
}

// blocks returns the size of a file in whole blocks.
func blocks(size int64) int64 { return (size + 4095) &^ 4095 }

// load finds the dumps of earlier runs, and removes unfinished ones.
func (q *quota) load() error {
	entries, err := q.files.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := q.loadOne(e); err != nil && !errors.Is(err, fs.ErrNotExist) { // another program may have removed it
			return err
		}
	}
	if f := q.finished[earlier]; f != nil {
		slices.SortFunc(f.dumps, func(a, b stored) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.sequence, b.sequence)) })
	}
	return q.makeRoom()
}

func (q *quota) loadOne(e fs.DirEntry) error {
	name, ours := parseID(e.Name())
	switch {
	case !e.Type().IsRegular():
	case isLeftover(e.Name()):
		return q.files.Remove(e.Name())
	case ours:
		info, err := e.Info()
		if err != nil {
			return err
		}
		q.add(earlier, stored{name, blocks(info.Size())})
	}
	return nil
}

func (q *quota) add(user int64, s stored) {
	if q.finished[user] == nil {
		q.finished[user] = &finished{}
	}
	f := q.finished[user]
	f.dumps = append(f.dumps, s)
	f.size += s.size
	q.used += s.size
}

// take reserves n bytes for an unfinished dump, and removes finished ones to make space. After an error none are
// reserved.
func (q *quota) take(user uint32, n int64) error {
	if !q.unfinished.take(user, n) {
		return errFull
	}
	q.used += n
	err := q.makeRoom()
	if err != nil {
		q.release(user, n)
	}
	return err
}

// release returns n bytes.
func (q *quota) release(user uint32, n int64) {
	q.unfinished.release(user, n)
	q.used -= n
}

// makeRoom removes finished dumps until the others are within the limit: the oldest of earlier runs, then the oldest of
// the user with the most. There is always one to remove, since unfinished dumps use less than the limit.
func (q *quota) makeRoom() error {
	for q.used > q.unfinished.max {
		user := q.largest()
		f := q.finished[user]
		oldest := f.dumps[0]
		if err := q.files.Remove(oldest.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the oldest dump %s: %w", oldest, err)
		}
		q.used -= oldest.size
		f.size -= oldest.size
		if f.dumps = f.dumps[1:]; len(f.dumps) == 0 {
			delete(q.finished, user)
		}
	}
	return nil
}

// largest returns the user with the most, or earlier.
func (q *quota) largest() (user int64) {
	size := int64(-1)
	for u, f := range q.finished {
		if u == earlier {
			return earlier
		}
		if f.size > size {
			user, size = u, f.size
		}
	}
	return user
}
