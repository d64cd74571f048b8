package dump

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/responses-api-proxy/responses-api-proxy/internal/safefile"
)

// id is what makes the name of a dump.
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

// part returns the name of the file while it is unfinished, which no tool takes for a dump.
func (i id) part() string { return "." + i.String() + ".part" }

// parseID is for names that String returns, and for no others.
func parseID(name string) (i id, ok bool) {
	_, err := fmt.Sscanf(name, "%d-%d-", &i.sequence, &i.time)
	i.isResponse = strings.HasSuffix(name, "-response.json")
	return i, err == nil && i.sequence > 0 && i.String() == name
}

// isLeftover reports whether a name is that of an unfinished dump; .raw is an earlier version's.
func isLeftover(name string) bool {
	rest, hidden := strings.CutPrefix(name, ".")
	whole, part := strings.CutSuffix(rest, ".part")
	whole, raw := strings.CutSuffix(whole, ".raw")
	_, ours := parseID(whole)
	return hidden && part != raw && ours
}

var errFull = errors.New("it needs more room than the directory's limit leaves")

// earlier is the user of the dumps of earlier runs, whose users are not known.
const earlier = -1

// quota keeps what the dumps take within the limit.
type quota struct {
	files      *safefile.Dir
	unfinished share           // of the limit
	finished   []stored        // the oldest first
	sizes      map[int64]int64 // of what each user has of these
	used       int64           // of the limit, by all
}

// stored is a finished dump, and what it takes.
type stored struct {
	id
	user, size int64
}

// blocks returns what a file of so many bytes takes.
func blocks(size int64) int64 { return (size + 4095) &^ 4095 }

// load finds the dumps of earlier runs, and removes unfinished ones.
func (s *quota) load() error {
	entries, err := s.files.List()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.loadOne(e); err != nil {
			return err
		}
	}
	slices.SortFunc(s.finished, func(a, b stored) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.sequence, b.sequence))
	})
	return s.makeRoom()
}

func (s *quota) loadOne(e fs.DirEntry) error {
	name, ours := parseID(e.Name())
	switch {
	case !e.Type().IsRegular():
		return nil
	case isLeftover(e.Name()):
		return gone(s.files.Remove(e.Name()))
	case !ours:
		return nil
	}
	info, err := e.Info()
	if err == nil {
		s.add(stored{name, earlier, blocks(info.Size())})
	}
	return gone(err)
}

// gone forgives that a file was removed by another program.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *quota) add(f stored) {
	s.finished = append(s.finished, f)
	s.sizes[f.user] += f.size
	s.used += f.size
}

// take takes n bytes for an unfinished dump, and removes finished ones for it. After an error none are taken.
func (s *quota) take(user uint32, n int64) error {
	if !s.unfinished.take(user, n) {
		return errFull
	}
	s.used += n
	err := s.makeRoom()
	if err != nil {
		s.release(user, n)
	}
	return err
}

// release gives n bytes back.
func (s *quota) release(user uint32, n int64) {
	s.unfinished.release(user, n)
	s.used -= n
}

// makeRoom removes finished dumps until the rest is within the limit. There is always one to remove, since unfinished
// ones take less than the limit.
func (s *quota) makeRoom() error {
	for s.used > s.unfinished.max {
		user := s.largest()
		i := slices.IndexFunc(s.finished, func(f stored) bool { return f.user == user })
		f := s.finished[i]
		if err := gone(s.files.Remove(f.String())); err != nil {
			return fmt.Errorf("cannot remove the oldest dump %s: %w", f, err)
		}
		s.finished = slices.Delete(s.finished, i, i+1)
		s.used -= f.size
		if s.sizes[user] -= f.size; s.sizes[user] == 0 {
			delete(s.sizes, user)
		}
	}
	return nil
}

// largest returns the user who has most, or earlier, which goes first.
func (s *quota) largest() (user int64) {
	if s.sizes[earlier] > 0 {
		return earlier
	}
	for u, size := range s.sizes {
		if size > s.sizes[user] {
			user = u
		}
	}
	return user
}
