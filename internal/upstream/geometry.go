package upstream

// Record geometry: which TLS record sizes leave no plaintext behind.
//
// crypto/tls appends a TLS 1.3 record's payload to a pooled buffer and seals it
// in place. Sealing n bytes needs n+22 (5 of header, 1 of type, 16 of tag); if
// the buffer's capacity lies between n+5 and n+22, the plaintext is sealed into
// a new array and stays behind in the old one, in the heap, not zeroed. Buffers
// get their capacity from the runtime's size classes. So a size is good if no
// class lies in that gap: then a buffer that can hold the payload can always
// hold the sealed record as well. Sizes up to smallRecord are let through
// although they may leave a copy; the record with the key is always larger. By
// induction no pooled buffer ever has a capacity in the gap of a larger good
// size, as long as all records of the process are cut by these rules and carry
// one version of TLS. TestWorstCase guards this against changes in Go.
const (
	maxRecord   = 16384 // RFC 8446, section 5.1
	smallRecord = 234   // smallRecord+22 is a size class, and so is what small records leave behind
	headerSize  = 5
	sealedExtra = 22
)

// geometry tells the good record sizes.
type geometry struct {
	bad [maxRecord + 1]bool
}

// newGeometry asks the runtime for its size classes.
func newGeometry() *geometry {
	g := &geometry{}
	zeros := make([]byte, maxRecord+sealedExtra)
	for size := 1; size <= len(zeros); {
		class := cap(append([]byte(nil), zeros[:size]...))
		for n := max(class-sealedExtra+1, smallRecord+1); n <= min(class-headerSize, maxRecord); n++ {
			g.bad[n] = true
		}
		size = class + 1
	}
	return g
}

// cut returns the largest good size up to n, for n from 1.
func (g *geometry) cut(n int) int {
	n = min(n, maxRecord)
	for g.bad[n] {
		n--
	}
	return n
}

// raise returns the smallest good size from n that is larger than a small
// record.
func (g *geometry) raise(n int) int {
	n = max(n, smallRecord+1)
	for g.bad[n] {
		n++
	}
	return n
}
