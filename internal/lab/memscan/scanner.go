package memscan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// word is the unit of the search. A fragment of 15 bytes or more contains a whole aligned word, so the scanner looks up
// aligned words only, and compares bytes only around those that occur in the key.
const word = 8

// A scanner receives memory in ascending order, in pieces of any size, and finds keys across their borders.
type scanner struct {
	key    []byte
	words  map[uint64][]int  // offsets in the key of each 8-byte window
	filter [1 << 10]uint64   // one bit per hash of a window, which rejects nearly all words
	buf    []byte            // memory that is not settled, preceded by one key's length
	base   uint64            // address of buf[0]
	next   int               // offset in buf at which the search continues
	ends   map[uint64]uint64 // end of the last run for each diagonal (address minus offset in the key)
	runs   []run
	report Report
}

// A run is a maximal stretch of memory that equals a stretch of the key.
type run struct{ start, end uint64 }

func newScanner(key []byte) *scanner {
	s := &scanner{key: key, words: map[uint64][]int{}, ends: map[uint64]uint64{}}
	for i := 0; i+word <= len(key); i++ {
		w := binary.LittleEndian.Uint64(key[i:])
		s.words[w] = append(s.words[w], i)
		h := hash(w)
		s.filter[h>>6] |= 1 << (h & 63)
	}
	return s
}

func hash(w uint64) uint64 { return w * 0x9E3779B97F4A7C15 >> 48 }

// feed searches p, which lies at addr. Pieces with a gap between them are not joined.
func (s *scanner) feed(addr uint64, p []byte) {
	if addr != s.base+uint64(len(s.buf)) {
		s.flush()
		s.base = addr
	}
	s.report.Bytes += int64(len(p))
	s.buf = append(s.buf, p...)
	// A word is settled when a whole key's length follows it.
	s.search(len(s.buf) - len(s.key))
	s.trim()
}

// flush settles the rest and counts.
func (s *scanner) flush() {
	s.search(len(s.buf))
	s.count()
	s.base, s.buf, s.next = 0, s.buf[:0], 0
	clear(s.ends)
}

// trim drops what no later run can reach. It drops whole words only, to keep the alignment.
func (s *scanner) trim() {
	drop := (s.next - len(s.key)) &^ (word - 1)
	if drop <= 0 {
		return
	}
	s.buf = append(s.buf[:0], s.buf[drop:]...)
	s.base += uint64(drop)
	s.next -= drop
	for d, end := range s.ends {
		if end <= s.base {
			delete(s.ends, d)
		}
	}
}

func (s *scanner) search(limit int) {
	if len(s.key) < MinFragment {
		s.searchShort()
		return
	}
	p := s.next
	for ; p+word <= limit; p += word {
		w := binary.LittleEndian.Uint64(s.buf[p:])
		if h := hash(w); s.filter[h>>6]>>(h&63)&1 != 0 {
			s.hit(p, s.words[w])
		}
	}
	s.next = p
}

// searchShort searches for keys that may not contain an aligned word; they have no fragments either.
func (s *scanner) searchShort() {
	for {
		i := bytes.Index(s.buf[s.next:], s.key)
		if i < 0 {
			break
		}
		s.next += i + 1
		s.report.Full++
	}
	s.next = max(s.next, len(s.buf)-len(s.key)+1)
}

// hit extends the word at p to both sides, for each of its offsets in the key.
func (s *scanner) hit(p int, places []int) {
	at := s.base + uint64(p)
	for _, k := range places {
		diagonal := at - uint64(k)
		if at < s.ends[diagonal] {
			continue
		}
		before, after := 0, word
		for before < k && before < p && s.buf[p-before-1] == s.key[k-before-1] {
			before++
		}
		for k+after < len(s.key) && p+after < len(s.buf) && s.buf[p+after] == s.key[k+after] {
			after++
		}
		s.ends[diagonal] = at + uint64(after)
		if before+after >= MinFragment {
			s.runs = append(s.runs, run{at - uint64(before), at + uint64(after)})
		}
	}
}

// count counts runs, except those within another one: a key with repetitions matches one place in several ways.
func (s *scanner) count() {
	slices.SortFunc(s.runs, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	var reach uint64
	for i, r := range s.runs {
		if i > 0 && r.end <= reach {
			continue
		}
		reach = r.end
		s.add(int(r.end - r.start))
	}
	s.runs = s.runs[:0]
}

func (s *scanner) add(length int) {
	if length == len(s.key) {
		s.report.Full++
		return
	}
	s.report.Fragments++
	s.report.Longest = max(s.report.Longest, length)
}
