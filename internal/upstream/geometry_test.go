package upstream

import (
	"math/rand/v2"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// maxPadding is the most that a record may need: from the shortest message to
// the first good size above the small ones.
const maxPadding = 260

var noPlaintext [maxRecord + sealedExtra]byte

// leavesNothing is the definition of a good size, asked from the runtime: a
// buffer that grew for the payload has room for the sealed record.
func leavesNothing(n int) bool {
	return n <= smallRecord || cap(append([]byte(nil), noPlaintext[:n+headerSize]...)) >= n+sealedExtra
}

func TestGeometryIsTheRuntimes(t *testing.T) {
	g := newGeometry()
	bad := 0
	for n := 1; n <= maxRecord; n++ {
		if g.bad[n] == leavesNothing(n) {
			t.Errorf("size %d: bad is %t; a buffer of %d grows to %d, and %d are needed", n, g.bad[n],
				n+headerSize, cap(append([]byte(nil), noPlaintext[:n+headerSize]...)), n+sealedExtra)
		}
		if g.bad[n] {
			bad++
		}
	}
	if bad == 0 || bad > maxRecord/4 {
		t.Errorf("%d of %d sizes are bad", bad, maxRecord)
	}
}

func TestSmallRecordsStayBelowTheOthers(t *testing.T) {
	g := newGeometry()
	// A small record leaves a buffer of exactly its sealed size behind. The
	// payload of no larger good size fits into that.
	if first := g.raise(1); first+headerSize <= smallRecord+sealedExtra {
		t.Errorf("a buffer of a small record takes in a payload of %d bytes", first)
	}
	for n := 1; n <= smallRecord; n++ {
		if g.bad[n] {
			t.Errorf("the small size %d is bad: nothing could be written", n)
		}
	}
}

func TestCut(t *testing.T) {
	g := newGeometry()
	last := 0
	for n := 1; n <= maxRecord; n++ {
		if leavesNothing(n) {
			last = n
		}
		if got := g.cut(n); got != last {
			t.Fatalf("cut(%d) = %d, want %d, the largest good size", n, got, last)
		}
	}
	for _, n := range []int{maxRecord + 1, 100_000, 1 << 30} {
		if got := g.cut(n); got != last {
			t.Errorf("cut(%d) = %d, want %d", n, got, last)
		}
	}
}

func TestRaise(t *testing.T) {
	g := newGeometry()
	next := maxRecord
	if !leavesNothing(next) {
		t.Fatal("the largest record is not good: raise would run out of the table")
	}
	for n := maxRecord; n >= 1; n-- {
		if n > smallRecord && leavesNothing(n) {
			next = n
		}
		if got := g.raise(n); got != next {
			t.Fatalf("raise(%d) = %d, want %d, the smallest good size", n, got, next)
		}
	}
}

// TestRecordSize tries all lengths of a key and of what follows it.
func TestRecordSize(t *testing.T) {
	const (
		shortest = len("POST / HTTP/1.1\r\nhost: a\r\n")
		longest  = 300 // of the paths that are tried
		line     = len("authorization: Bearer \r\n")
	)
	w := &writer{geometry: newGeometry()}
	for _, prefix := range []int{shortest, longest} {
		for key := 1; key <= secret.MaxKey; key++ {
			for more := 1; more <= 9000; more++ {
				fixed := prefix + line + key
				size, padding := w.recordSize(fixed, more)
				if why := w.wrong(fixed, more, size, padding); why != "" {
					t.Fatalf("recordSize(%d, %d) = %d, %d: %s", fixed, more, size, padding, why)
				}
			}
		}
	}
}

// wrong tells what a record with the credential must not be.
func (w *writer) wrong(fixed, more, size, padding int) string {
	available := min(fixed+more, secret.SlotSize)
	largest := w.geometry.cut(available)
	switch {
	case size > secret.SlotSize:
		return "it does not fit into the secret memory"
	case size <= smallRecord:
		return "it is small"
	case w.geometry.bad[size]:
		return "the size is in a gap"
	case size < fixed+padding:
		return "the credential is cut"
	case padding < 0 || padding > maxPadding:
		return "the padding is out of bounds"
	case padding == 0 && size > available:
		return "there is nothing to fill it with"
	case padding > 0 && size != available+padding:
		return "the padding does not make up for what is missing"
	case padding > 0 && largest >= fixed && largest > smallRecord:
		return "it is padded although it need not be"
	}
	return ""
}

// TestNothingIsLeftInPooledBuffers does with its buffers what crypto/tls does,
// in random orders, and with the small records of handshakes and alerts
// between ours.
func TestNothingIsLeftInPooledBuffers(t *testing.T) {
	g := newGeometry()
	rnd := rand.New(rand.NewPCG(1, 2))
	var pool [][]byte
	for step := range 200_000 {
		if len(pool) == 0 || rnd.IntN(50) == 0 {
			pool = append(pool[:0], nil, nil, nil) // as the garbage collector does
		}
		n, i := 1+rnd.IntN(smallRecord), rnd.IntN(len(pool))
		if rnd.IntN(4) > 0 {
			n = g.cut(1 + rnd.IntN(1<<rnd.IntN(15)))
		}
		sealed, left := sealLikeTLS(pool[i], n)
		if left && n > smallRecord {
			t.Fatalf("step %d: a record of %d bytes stays behind in a buffer of %d", step, n, cap(pool[i]))
		}
		pool[i] = sealed
	}
}

// sealLikeTLS is what halfConn.encrypt and sliceForAppend do to a buffer for
// TLS 1.3. It tells whether the plaintext stays behind in an array of its own.
func sealLikeTLS(buf []byte, n int) (sealed []byte, left bool) {
	if cap(buf) < headerSize {
		buf = make([]byte, headerSize)
	}
	buf = append(buf[:headerSize], noPlaintext[:n]...)
	buf = append(buf, 23)
	if cap(buf) >= n+sealedExtra {
		return buf[:n+sealedExtra], false
	}
	return make([]byte, n+sealedExtra), true
}

// TestModelHasTeeth proves that the model finds what sizes at random leave.
func TestModelHasTeeth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range 10_000 {
		if _, left := sealLikeTLS(nil, smallRecord+1+rnd.IntN(4000)); left {
			found++
		}
	}
	if found == 0 {
		t.Error("sizes at random leave nothing behind: the model is blunt")
	}
}
