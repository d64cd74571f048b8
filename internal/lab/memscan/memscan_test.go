package memscan

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// testKey returns a key without a repeated part and without a byte of the noise around it.
func testKey(n int) []byte {
	rnd, key := rand.New(rand.NewPCG(1, uint64(n))), make([]byte, n)
	for i := range key {
		key[i] = 'a' + byte(rnd.IntN(26))
	}
	return key
}

// plant returns size zero bytes with parts at the given offsets.
func plant(size int, parts map[int][]byte) []byte {
	p := make([]byte, size)
	for at, part := range parts {
		copy(p[at:], part)
	}
	return p
}

func check(t *testing.T, what string, got Report, full, fragments, longest int) {
	t.Helper()
	if got.Full != full || got.Fragments != fragments || got.Longest != longest {
		t.Errorf("%s: %+v, want %d full, %d fragments, longest %d", what, got, full, fragments, longest)
	}
}

func TestFullCopies(t *testing.T) {
	for _, n := range []int{1, 7, 8, 15, 16, 17, 51, 164} {
		key := testKey(n)
		for at := range 24 {
			p := plant(4096, map[int][]byte{at: key, 1000 + at: key, 4096 - n: key})
			check(t, "planted", Bytes(p, key), 3, 0, 0)
		}
	}
}

func TestFragments(t *testing.T) {
	key := testKey(164)
	for _, c := range []struct{ length, fragments, longest int }{{15, 0, 0}, {16, 1, 16}, {17, 1, 17}, {163, 1, 163}} {
		for at := range 16 {
			for _, from := range []int{0, 1, (164 - c.length) / 2, 164 - c.length} {
				p := plant(512, map[int][]byte{at: key[from : from+c.length]})
				check(t, "planted", Bytes(p, key), 0, c.fragments, c.longest)
			}
		}
	}
}

func TestFragmentBesideFullCopy(t *testing.T) {
	key := testKey(100)
	p := plant(512, map[int][]byte{10: key, 110: key[50:90], 300: key[:20]})
	check(t, "planted", Bytes(p, key), 1, 2, 40)
}

func TestNothing(t *testing.T) {
	check(t, "empty memory", Bytes(nil, testKey(20)), 0, 0, 0)
	check(t, "empty key", Bytes(testKey(20), nil), 0, 0, 0)
	if _, err := File(os.DevNull, nil); err == nil {
		t.Error("no error for an empty key")
	}
	if _, err := Process(os.Getpid(), nil); err == nil {
		t.Error("no error for an empty key")
	}
	if _, err := File(filepath.Join(t.TempDir(), "none"), testKey(20)); err == nil {
		t.Error("no error for a file that is not there")
	}
}

// TestBorders places keys around the border of two reads.
func TestBorders(t *testing.T) {
	key := testKey(100)
	for shift := range 120 {
		at := chunk - 110 + shift
		path := filepath.Join(t.TempDir(), "core")
		p := plant(chunk+512, map[int][]byte{at: key, at + 100: key[20:37]})
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := File(path, key)
		if err != nil {
			t.Fatal(err)
		}
		check(t, "file", got, 1, 1, 17)
		if got.Bytes != int64(len(p)) {
			t.Errorf("%d bytes", got.Bytes)
		}
	}
}

// TestPieces: the result does not depend on the pieces.
func TestPieces(t *testing.T) {
	key := testKey(64)
	p := plant(2000, map[int][]byte{3: key, 500: key[:16], 901: key[30:47], 1500: key})
	for size := 1; size < 300; size++ {
		s := newScanner(key)
		for at := 0; at < len(p); at += size {
			s.feed(uint64(4096+at), p[at:min(at+size, len(p))])
		}
		s.flush()
		check(t, "pieces", s.report, 2, 2, 17)
	}
}

func TestGapJoinsNothing(t *testing.T) {
	key := testKey(64)
	s := newScanner(key)
	s.feed(0, key[:32])
	s.feed(4096, key[32:])
	s.flush()
	check(t, "gap", s.report, 0, 2, 32)
}

// naive is the reference for Report.
func naive(p, key []byte) (full, fragments, longest int) {
	var runs []run
	for i := range p {
		for k := range key {
			if i > 0 && k > 0 && p[i-1] == key[k-1] {
				continue
			}
			n := 0
			for i+n < len(p) && k+n < len(key) && p[i+n] == key[k+n] {
				n++
			}
			if n >= MinFragment || n == len(key) {
				runs = append(runs, run{uint64(i), uint64(i + n)})
			}
		}
	}
	seen := map[run]bool{}
	for _, r := range runs {
		inside := seen[r]
		for _, o := range runs {
			inside = inside || o != r && o.start <= r.start && r.end <= o.end
		}
		seen[r] = true
		if n := int(r.end - r.start); inside {
			continue
		} else if n == len(key) {
			full++
		} else {
			fragments, longest = fragments+1, max(longest, n)
		}
	}
	return full, fragments, longest
}

// mix assembles memory from parts of the key, two bytes of script for each part.
func mix(key, script []byte) []byte {
	var p []byte
	for i := 0; i+1 < len(script); i += 2 {
		from := int(script[i]) % len(key)
		n := int(script[i+1]) % (len(key) + 8)
		p = append(p, key[from:min(from+n, len(key))]...)
		if n%3 == 0 {
			p = append(p, script[i])
		}
	}
	return p
}

func FuzzAgainstNaive(f *testing.F) {
	f.Add(testKey(40), []byte{0, 40, 1, 17, 9, 3}, uint8(7))
	f.Add(bytes.Repeat([]byte("ab"), 20), []byte{0, 40, 3, 47, 9, 30}, uint8(1))
	f.Add([]byte("aaaaaaaaaaaaaaaaaaaaaaaab"), []byte{0, 24, 0, 24, 0, 30}, uint8(50))
	f.Add([]byte("short"), []byte{0, 6, 0, 8}, uint8(2))
	f.Fuzz(func(t *testing.T, key, script []byte, size uint8) {
		if len(key) == 0 || len(key) > 100 || len(script) > 40 {
			return
		}
		p := mix(key, script)
		full, fragments, longest := naive(p, key)
		check(t, "whole", Bytes(p, key), full, fragments, longest)
		s := newScanner(key)
		for at := 0; at < len(p); at += int(size) + 1 {
			s.feed(uint64(at), p[at:min(at+int(size)+1, len(p))])
		}
		s.flush()
		check(t, "pieces", s.report, full, fragments, longest)
	})
}

func BenchmarkBytes(b *testing.B) {
	p, key := make([]byte, 64<<20), testKey(164)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Bytes(p, key)
	}
}
