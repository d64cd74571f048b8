package memscan

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// word is the unit of the search. Wherever a fragment lies, if it has 15 bytes
// or more then one whole aligned word is inside it; so it is enough to look at
// aligned words and compare byte by byte only around those that the key has.
const word = 8

// A scanner is fed memory in ascending order, in pieces of any size, and finds
// what lies across their borders too.
type scanner struct {
	key    []byte
	words  map[uint64][]int  // where in the key each 8-byte window stands
	filter [1 << 10]uint64   // one bit per hash of a window: nearly all words end here
	buf    []byte            // memory not settled yet, with one key's length before it
	base   uint64            // address of buf[0]
	next   int               // where in buf the search goes on
	ends   map[uint64]uint64 // per diagonal (address minus place in the key), where the last run ended
	runs   []run
	report Report
}

// A run is a stretch of memory that equals a stretch of the key, and would not
// if it were longer on either side.
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

// feed looks at p, which lies at addr. A gap since the last piece ends what
// was there: nothing is joined across it.
func (s *scanner) feed(addr uint64, p []byte) {
	if addr != s.base+uint64(len(s.buf)) {
		s.flush()
		s.base = addr
	}
	s.report.Bytes += int64(len(p))
	s.buf = append(s.buf, p...)
	// A word is settled when a whole key's length after it is known.
	s.search(len(s.buf) - len(s.key))
	s.trim()
}

// flush settles what is left and counts.
func (s *scanner) flush() {
	s.search(len(s.buf))
	s.count()
	s.base, s.buf, s.next = 0, s.buf[:0], 0
	clear(s.ends)
}

// trim forgets what no later run can reach back to. It keeps the grid of
// aligned words by dropping whole words only.
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

// searchShort serves keys that may hold no aligned word; they have no
// fragments either.
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

// hit extends the word at p to both sides, for each place it has in the key.
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

// count adds up the runs, without those that lie inside of another: keys that
// repeat themselves match one place of memory in several ways.
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
