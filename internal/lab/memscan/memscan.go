// Package memscan searches for copies of a key, whole or in part, in the memory of a process, in a file such as a core
// file (whose register notes are searched as well), or in a byte slice. It is a tool for tests: it proves that a key is
// in its place and nowhere else. Open and Each read a process's memory for other searches.
package memscan

import (
	"errors"
	"io"
	"os"
)

// MinFragment is the length of the shortest part of a key that is reported, in bytes.
const MinFragment = 16

// chunk is the size of a read in bytes.
const chunk = 1 << 20

// errNoKey keeps a test from succeeding because it searched for nothing.
var errNoKey = errors.New("memscan: empty key")

// A Report contains the findings of a search and its extent.
type Report struct {
	Full       int   // whole copies, overlapping ones included
	Fragments  int   // stretches of at least MinFragment bytes of the key outside of whole copies
	Longest    int   // length of the longest fragment
	Bytes      int64 // bytes searched; pages that were never touched are not read
	Regions    int   // mappings of which anything was read
	Unreadable int   // pages that the kernel refused to read, such as memfd_secret(2)'s
}

// Bytes searches p for key.
func Bytes(p, key []byte) Report {
	if len(key) == 0 {
		return Report{}
	}
	s := newScanner(key)
	s.feed(0, p)
	s.flush()
	return s.report
}

// File searches the file at path for key.
func File(path string, key []byte) (Report, error) {
	if len(key) == 0 {
		return Report{}, errNoKey
	}
	f, err := os.Open(path)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	s := newScanner(key)
	err = s.readAll(f)
	s.flush()
	return s.report, err
}

func (s *scanner) readAll(r io.Reader) error {
	p := make([]byte, chunk)
	for at := uint64(0); ; {
		n, err := r.Read(p)
		s.feed(at, p[:n])
		at += uint64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
