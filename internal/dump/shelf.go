package dump

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// id is what makes the name of a dump.
type id struct {
	time     int64 // of the request, in Unix milliseconds
	sequence int64
	isAnswer bool
}

// String is the name of the file.
func (i id) String() string {
	kind := "request"
	if i.isAnswer {
		kind = "response"
	}
	return fmt.Sprintf("%06d-%d-%s.json", i.sequence, i.time, kind)
}

// What is unfinished has a name of its own, which no tool takes for a dump.
func (i id) raw() string  { return "." + i.String() + ".raw" }
func (i id) part() string { return "." + i.String() + ".part" }

// parseID is for names that String returns, and for no others.
func parseID(name string) (id, bool) {
	sequence, rest, _ := strings.Cut(name, "-")
	time, kind, _ := strings.Cut(rest, "-")
	var i id
	var err1, err2 error
	i.sequence, err1 = strconv.ParseInt(sequence, 10, 64)
	i.time, err2 = strconv.ParseInt(time, 10, 64)
	i.isAnswer = kind == "response.json"
	return i, err1 == nil && err2 == nil && i.sequence > 0 && i.String() == name
}

// isLeftover tells whether a name is that of an unfinished dump.
func isLeftover(name string) bool {
	inner, hidden := strings.CutPrefix(name, ".")
	dump, raw := strings.CutSuffix(inner, ".raw")
	if !raw {
		dump = strings.TrimSuffix(inner, ".part")
	}
	_, ours := parseID(dump)
	return hidden && ours && dump != inner
}

var errFull = errors.New("it needs more room than the folder's limit leaves")

// shelf keeps what the dumps take within the limit.
type shelf struct {
	root *os.Root
	max  int64

	mu    sync.Mutex
	used  int64
	files []stored // finished ones, the oldest first
}

// stored is a finished dump and what it takes.
type stored struct {
	id
	size int64
}

// blocks is what a file of so many bytes takes.
func blocks(size int64) int64 { return (size + 4095) &^ 4095 }

// load finds the dumps of earlier runs, and removes unfinished ones.
func (s *shelf) load(dir *os.File) error {
	for {
		entries, err := dir.ReadDir(512)
		for _, e := range entries {
			if err := s.loadOne(e); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(s.files, func(a, b stored) int {
		if a.time != b.time {
			return int(max(-1, min(a.time-b.time, 1)))
		}
		return int(max(-1, min(a.sequence-b.sequence, 1)))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.makeRoom()
}

func (s *shelf) loadOne(e fs.DirEntry) error {
	if !e.Type().IsRegular() {
		return nil
	}
	if isLeftover(e.Name()) {
		return gone(s.root.Remove(e.Name()))
	}
	id, ours := parseID(e.Name())
	if !ours {
		return nil
	}
	info, err := e.Info()
	if err != nil {
		return gone(err)
	}
	size := blocks(info.Size())
	s.used += size
	s.files = append(s.files, stored{id, size})
	return nil
}

// gone forgives that a file was removed by somebody else.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// take takes n bytes, and removes the oldest dumps for it. After an error none
// are taken.
func (s *shelf) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += n
	err := s.makeRoom()
	if err == nil && s.used > s.max {
		err = errFull
	}
	if err != nil {
		s.used -= n
	}
	return err
}

func (s *shelf) makeRoom() error {
	for s.used > s.max && len(s.files) > 0 {
		oldest := s.files[0]
		s.files = s.files[1:] // append moves what is left when it runs out of room
		if err := gone(s.root.Remove(oldest.String())); err != nil {
			return fmt.Errorf("cannot remove the oldest dump %s: %w", oldest, err)
		}
		s.used -= oldest.size
	}
	return nil
}

// give gives n bytes back.
func (s *shelf) give(n int64) {
	s.mu.Lock()
	s.used -= n
	s.mu.Unlock()
}

// keep adds a finished dump, for which size bytes were taken.
func (s *shelf) keep(i id, size int64) {
	s.mu.Lock()
	s.files = append(s.files, stored{i, size})
	s.mu.Unlock()
}
