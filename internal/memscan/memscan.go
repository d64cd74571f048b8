// Package memscan looks for copies of a key, whole or in part, in the memory
// of a process, in a file such as a core (whose register notes are bytes like
// any others), or in a byte slice. It is a tool for tests: it proves that a
// key is where it should be and nowhere else. Who looks for something else
// reads a process's memory with Open and Each.
package memscan

import (
	"errors"
	"io"
	"os"
)

// MinFragment is the length of the shortest part of a key that is reported.
const MinFragment = 16

// chunk is how much is read at once.
const chunk = 1 << 20

// errNoKey saves a test from "nothing found" when it looked for nothing.
var errNoKey = errors.New("memscan: empty key")

// A Report says what was found and how much was looked at.
type Report struct {
	Full       int   // whole copies, overlapping ones included
	Fragments  int   // stretches of MinFragment or more bytes of the key outside of any whole copy
	Longest    int   // length of the longest fragment
	Bytes      int64 // bytes looked at; pages that were never touched are not read
	Regions    int   // mappings of which anything was read
	Unreadable int   // pages that the kernel would not read to us, such as memfd_secret(2)'s
}

// Bytes looks for key in p.
func Bytes(p, key []byte) Report {
	if len(key) == 0 {
		return Report{}
	}
	s := newScanner(key)
	s.feed(0, p)
	s.flush()
	return s.report
}

// File looks for key in the file at path.
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
